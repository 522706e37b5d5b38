"""Checkpoints must survive kills, truncation and other sizes of the run."""

import logging
import os
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from ndpp_dense.integrations.detectron2.checkpoint import CheckpointReadError, NDCheckpointer
from ndpp_dense.training.run_folder import note_run

pytestmark = pytest.mark.detectron2


class Counter:
    """Stands for the trainer: something with a state."""

    value = 0

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


@pytest.fixture
def make(tmp_path):
    def build(keep=2, width=3):
        torch.manual_seed(0)
        return NDCheckpointer(nn.Linear(width, 2), str(tmp_path), keep=keep, counter=Counter())

    return build


def save(checkpointer, *iterations):
    for iteration in iterations:
        nn.init.constant_(checkpointer.model.weight, iteration)
        checkpointer.checkpointables["counter"].value = iteration
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_resume_restores_model_state_and_random_numbers(make):
    first = make()
    torch.manual_seed(5)
    save(first, 7)
    expected = torch.rand(3), np.random.rand()
    second = make()
    assert second.resume_or_load("", resume=True)["iteration"] == 7
    assert second.model.weight.eq(7).all()
    assert second.checkpointables["counter"].value == 7
    assert torch.equal(torch.rand(3), expected[0])
    assert np.random.rand() == expected[1]


def test_the_last_k_and_the_named_ones_stay(make, tmp_path):
    checkpointer = make(keep=2)
    checkpointer.save("model_best")
    save(checkpointer, 1, 2, 3)
    checkpointer.save("model_final", iteration=3)
    (tmp_path / ".model_0000004.pth-killed").mkdir()
    save(checkpointer, 4)
    assert sorted(f.name for f in tmp_path.iterdir() if f.name != "run.json") == [
        "last_checkpoint",
        "model_0000003.pth",
        "model_0000004.pth",
        "model_best.pth",
        "model_final.pth",
    ]


def test_the_best_model_is_not_resumed(make, tmp_path):
    checkpointer = make()
    save(checkpointer, 1)
    checkpointer.save("model_best", iteration=9)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
    assert make().resume_or_load("", resume=True)["iteration"] == 1


def test_a_failed_write_leaves_the_former_file(make, tmp_path, monkeypatch):
    checkpointer = make()
    save(checkpointer, 1)

    def disk_full(data, stream):
        stream.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="no space left"):
        save(checkpointer, 1)
    monkeypatch.undo()
    assert make().resume_or_load("", resume=True)["iteration"] == 1
    assert {f.name for f in tmp_path.iterdir()} == {"last_checkpoint", "model_0000001.pth", "run.json"}


def test_a_truncated_file_falls_back_and_names_both(make, tmp_path, caplog):
    save(make(), 1, 2)
    truncate(tmp_path / "model_0000002.pth")
    with caplog.at_level(logging.WARNING):
        assert make().resume_or_load("", resume=True)["iteration"] == 1
    assert "Falling back to the checkpoint before" in caplog.text
    assert "model_0000001.pth (step 2): 1 step is lost. Damaged: " in caplog.text
    assert "model_0000002.pth" in caplog.text


def test_a_lost_pointer_is_no_loss(make, tmp_path):
    save(make(), 1, 2)
    (tmp_path / "last_checkpoint").unlink()
    os.utime(tmp_path / "model_0000001.pth", (1, 1))
    assert make().resume_or_load("", resume=True)["iteration"] == 2


def flip(file, value):
    """Change a bit of the weights, which all have this value."""
    content = bytearray(file.read_bytes())
    content[content.index(np.full(6, value, np.float32).tobytes())] ^= 1
    file.write_bytes(content)


def test_a_flipped_bit_falls_back_and_goes_with_the_next_save(make, tmp_path, caplog):
    save(make(), 1, 2, 3)
    flip(tmp_path / "model_0000003.pth", 3)  # torch reads it without a word
    torch.load(tmp_path / "model_0000003.pth", weights_only=True)
    run = make()
    with caplog.at_level(logging.WARNING):
        assert run.resume_or_load("", resume=True)["iteration"] == 2
    assert "not those that were written" in caplog.text
    save(run, 4)
    assert sorted(f.name for f in tmp_path.glob("model_*")) == ["model_0000002.pth", "model_0000004.pth"]
    flip(tmp_path / "model_0000004.pth", 4)
    with pytest.raises(CheckpointReadError, match="not those that were written"):
        make().load(str(tmp_path / "model_0000004.pth"))


def test_a_checkpoint_of_another_run_is_not_resumed(make, tmp_path, caplog):
    save(make(), 1, 2)
    other = NDCheckpointer(nn.Linear(3, 2), str(tmp_path / "other"), counter=Counter())
    save(other, 9)
    (tmp_path / "other" / "model_0000009.pth").replace(tmp_path / "model_0000002.pth")
    with caplog.at_level(logging.WARNING):
        assert make().resume_or_load("", resume=True)["iteration"] == 1
    assert "it is a checkpoint of another run" in caplog.text
    (tmp_path / "run.json").write_text("")
    with pytest.raises(CheckpointReadError, match="several runs"):
        make().resume_or_load("", resume=True)


def test_what_is_dropped_is_decided_by_the_run(make, tmp_path):
    """Not by the number: a shorter run's own checkpoints stay beside those of a longer one."""
    save(make(), 100, 200)
    note_run(tmp_path, run="another")
    short = make()
    save(short, 1, 2, 3)
    names = {f.name for f in tmp_path.glob("model_*")}
    assert names == {f"model_{number:07d}.pth" for number in (2, 3, 100, 200)}


@pytest.mark.parametrize("content", [b"", b"\0\0\0", b"model_0000007.pth", b"\xff\xfe/..", b".", b"/"])
def test_a_damaged_pointer_is_no_loss(make, tmp_path, content):
    save(make(), 1, 2)
    (tmp_path / "last_checkpoint").write_bytes(content)
    assert make().resume_or_load("", resume=True)["iteration"] == 2


def test_a_pointer_to_nothing_is_no_fresh_start(make, tmp_path):
    save(make(), 1)
    (tmp_path / "model_0000001.pth").unlink()
    with pytest.raises(CheckpointReadError, match="model_0000001.pth, which is not there"):
        make().resume_or_load("", resume=True)


def test_checkpoints_from_before_seals_are_resumed(make, tmp_path):
    save(make(), 1, 2)
    for file in tmp_path.glob("model_*"):
        content = torch.load(file, weights_only=True)
        torch.save(content, file)
    (tmp_path / "run.json").unlink()
    flip(tmp_path / "model_0000002.pth", 2)
    run = make()
    assert run.resume_or_load("", resume=True)["iteration"] == 1  # torch keeps a checksum that it does not read
    save(run, 3)
    assert make().resume_or_load("", resume=True)["iteration"] == 3


def test_no_readable_file_is_an_error(make, tmp_path):
    save(make(), 1, 2)
    truncate(tmp_path / "model_0000001.pth")
    (tmp_path / "model_0000002.pth").write_bytes(b"")
    pattern = r"no checkpoint .*sound.*model_0000002.pth \(0 bytes\): it is empty.*another folder without --resume"
    with pytest.raises(CheckpointReadError, match=pattern):
        make().resume_or_load("", resume=True)


def test_nothing_to_resume_starts_fresh_and_says_so(make, caplog):
    with caplog.at_level(logging.WARNING):
        assert make().resume_or_load("", resume=True) == {}
    assert "Nothing to resume" in caplog.text


def test_named_weights_that_are_missing_or_corrupt(make, tmp_path):
    weights = tmp_path / "weights.pth"
    torch.save({"model": nn.Linear(3, 2).state_dict()}, weights)
    with pytest.raises(FileNotFoundError, match=r"wieghts.pth not found .*nearest names there: weights.pth"):
        make().load(str(tmp_path / "wieghts.pth"))
    truncate(weights)
    with pytest.raises(CheckpointReadError, match=r"weights.pth \(\d+ bytes\).*truncated"):
        make().load(str(weights))
    (tmp_path / "empty.pkl").write_bytes(b"")
    with pytest.raises(CheckpointReadError, match="empty.pkl"):
        make().load(str(tmp_path / "empty.pkl"))


def test_the_log_says_how_much_of_the_backbone_was_found(tmp_path, caplog):
    def detector():
        body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        return nn.ModuleDict({"backbone": nn.ModuleDict({"bottom_up": body, "fpn": nn.Linear(4, 4)})})

    def log_of(entries):
        torch.save({"model": entries}, tmp_path / "weights.pth")
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="ndpp_dense"):
            NDCheckpointer(detector()).load(str(tmp_path / "weights.pth"))
        return [(r.levelname, r.getMessage()) for r in caplog.records if r.getMessage().startswith("Backbone")]

    entries = {key: value for key, value in detector().state_dict().items() if "fpn" not in key}
    del entries["backbone.bottom_up.1.num_batches_tracked"]
    assert log_of(entries) == [("INFO", "Backbone: 6 of 6 weights loaded, 0 unmatched")]
    del entries["backbone.bottom_up.1.running_var"]
    entries["backbone.bottom_up.0.weight"] = torch.zeros(4, 5, 1, 1)
    message = "Backbone: 4 of 6 weights loaded, 2 unmatched, first backbone.bottom_up.0.weight"
    assert log_of(entries) == [("WARNING", message)]


def test_a_file_with_code_in_it_is_not_run(make, tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "evil"),))

    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointReadError):
        make().load(str(tmp_path / "evil.pth"))
    assert not (tmp_path / "evil").exists()


def test_detectron2s_own_weights_load(make, tmp_path):
    arrays = {"weight": np.full((2, 3), 4, np.float32), "bias": np.zeros(2, np.float32)}
    with (tmp_path / "zoo.pkl").open("wb") as stream:
        pickle.dump({"model": arrays, "__author__": "model zoo"}, stream)
    checkpointer = make()
    checkpointer.load(str(tmp_path / "zoo.pkl"))
    assert checkpointer.model.weight.eq(4).all()


def test_another_model_is_an_error(make):
    save(make(), 1)
    with pytest.raises(ValueError, match="model_0000001.pth does not fit this run.*size mismatch"):
        make(width=4).resume_or_load("", resume=True)


def test_another_world_size_goes_on_with_a_warning(make, monkeypatch, caplog):
    save(make(), 1)
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    monkeypatch.setattr("detectron2.utils.comm.all_gather", lambda data: [data, data])
    with caplog.at_level(logging.WARNING):
        assert make().resume_or_load("", resume=True)["iteration"] == 1
    assert "written by 1 process(es) and is resumed by 2" in caplog.text


def test_non_finite_weights_are_not_saved(make):
    checkpointer = make()
    save(checkpointer, 1)
    with torch.no_grad():
        checkpointer.model.bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"'bias'.*last good checkpoint is .*model_0000001.pth"):
        checkpointer.save("model_0000002")


def test_keep_must_be_positive(make):
    with pytest.raises(ValueError, match="CHECKPOINT_KEEP=0"):
        make(keep=0)
