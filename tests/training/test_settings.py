"""What changed in a resumed run is said, a line each, with the one that counts."""

from ndpp_dense.training.settings import changed_settings, flat_settings, held_settings

BEFORE = {"solver": {"lr": 0.01, "steps": (6, 8)}, "seed": 3, "folder": "a", "schedule": [{"end": 5}, {"end": 9}]}
NOW = {"solver": {"lr": 0.02, "steps": [6, 8], "clip": 1.0}, "seed": 3, "folder": "b", "schedule": [{"end": 5}]}
HELD = ("solver.lr", "schedule*")


def test_each_change_is_a_line_that_says_what_counts():
    now, before = (flat_settings(settings, ["folder"]) for settings in (NOW, BEFORE))
    held = "counts; to change it, start from its weights in another folder."
    assert changed_settings(now, before, HELD) == [
        f"schedule.1.end is not set here and was 9 in the run that is resumed: the checkpoint's 9 {held}",
        "solver.clip is 1.0 here and was not set in the run that is resumed: 1.0 counts.",
        f"solver.lr is 0.02 here and was 0.01 in the run that is resumed: the checkpoint's 0.01 {held}",
    ]
    assert changed_settings(now, now, HELD) == []


def test_what_a_checkpoint_holds_is_said_again_when_it_is_resumed_again():
    now, before = (flat_settings(settings, ["folder"]) for settings in (NOW, BEFORE))
    effective = held_settings(now, before, HELD)
    assert effective["solver.lr"] == "0.01"
    assert effective["solver.clip"] == "1.0"
    assert [line.split()[0] for line in changed_settings(now, effective, HELD)] == ["schedule.1.end", "solver.lr"]
