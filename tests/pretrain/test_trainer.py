"""Runs learn, are resumed to the bit, and say what they did."""

import csv
import json
import logging
import os
import signal

import pytest
import torch

from ndpp_dense.distributed.stopping import StoppedEarly, watching_for_stop
from ndpp_dense.pretrain import evaluation
from ndpp_dense.pretrain.checkpoint import CheckpointReadError
from ndpp_dense.pretrain.run import evaluate_only
from ndpp_dense.pretrain.step import run_network

CPU = torch.device("cpu")
# Everything that has a state or draws random numbers: saved twice an epoch of three steps.
ALL = {
    "accumulation": 2,
    "erasing": 0.5,
    "mixup": 0.2,
    "ema_decay": 0.9,
    "warmup_epochs": 1,
    "save_every": 1,
    "ndpp": {"statistics": "batch", "block_size": 8, "block_size_spatial": 2, "block_size_linear": 8},
}


class KilledError(Exception):
    pass


def train_until(run, step):
    """Train, and end as if killed in the step after so many."""
    advance = run.state.advance

    def interrupted(loss):
        if run.state.done == step:
            raise KilledError
        advance(loss)

    run.state.advance = interrupted
    with pytest.raises(KilledError):
        run.train()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def test_training_lowers_the_loss_and_tells_the_classes_apart(trainer, tmp_path):
    run = trainer(tmp_path / "run", epochs=4)
    results = run.train()
    losses = [row["train_loss"] for row in run.state.record.epochs]
    assert losses[-1] < 0.6 * losses[0]
    assert results["last"]["top1"] >= 90
    assert results["last"]["top5"] == 100
    assert run.state.done == run.total == 12


def test_a_run_leaves_results_curves_and_summary(trainer, tmp_path):
    results = trainer(tmp_path / "run", eval_every=2).train()
    loaded = json.loads((tmp_path / "run" / "results.json").read_text())
    assert loaded["last"] == pytest.approx(results["last"])
    assert loaded["best"]["epoch"] == 2
    with (tmp_path / "run" / "summary.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "3"), ("2", "6")]
    assert rows[0]["top1"] == ""
    assert float(rows[1]["top1"]) == results["last"]["top1"]
    assert (tmp_path / "run" / "curves.png").stat().st_size > 10_000


@pytest.mark.parametrize("step", [2, 4])
def test_an_interrupted_run_resumes_to_the_same_bits(trainer, folders, differences, step):
    whole, parts = folders / "whole", folders / f"parts{step}"
    if not whole.exists():
        trainer(whole, **ALL).train()
    train_until(trainer(parts, **ALL), step)
    again = trainer(parts, **ALL)
    assert again.resume()
    assert again.state.done == step
    again.train()
    assert differences(whole / "last.pth", parts / "last.pth") == []
    assert differences(whole / "best.pth", parts / "best.pth") == []
    for name in ("results.json", "summary.csv"):
        assert (whole / name).read_text() == (parts / name).read_text()


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_evaluating_and_saving_leave_no_trace(trainer, tmp_path, decay):
    settings = {**ALL, "ema_decay": decay, "epochs": 1, "warmup_epochs": 0}
    runs = []
    for name, save_every in (("busy", 1), ("quiet", 0)):
        runs.append(trainer(tmp_path / name, **{**settings, "save_every": save_every}))
        runs[-1].train()
    for part in ("network", "deployed"):
        one, other = (getattr(run.state, part).state_dict() for run in runs)
        assert [key for key, value in one.items() if not torch.equal(value, other[key])] == []


def test_checkpoints_hold_ready_statistics_and_the_runs_own(trainer, tmp_path):
    settings = {"ndpp": ALL["ndpp"], "epochs": 1}
    run = trainer(tmp_path / "run", **settings)
    run.train()
    saved = torch.load(tmp_path / "run" / "last.pth", weights_only=True)
    own = saved["statistics"]["own"]
    assert own
    state = run.state.network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in own.items())
    assert any(not torch.equal(saved["model"][name], value) for name, value in own.items())


def test_evaluating_the_best_checkpoint_gives_its_results(tree, tiny, trainer, tmp_path):
    run = trainer(tmp_path / "run", ema_decay=0.5)
    best = run.train()["best"]
    weights = str(tmp_path / "run" / "best.pth")
    found = evaluate_only(tiny(ema_decay=0.5, weights=weights), tree, tmp_path / "run", CPU)
    assert found == {name: best[name] for name in ("loss", "top1", "top5")}
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["evaluation"] == found
    last = evaluate_only(tiny(ema_decay=0.5), tree, tmp_path / "run", CPU, resume=True)
    assert last["loss"] == run.state.record.evaluated[-1]["loss"]
    with pytest.raises(FileNotFoundError, match="weights=FILE, or --resume"):
        evaluate_only(tiny(), tree, tmp_path / "run", CPU)


def test_a_truncated_checkpoint_falls_back_to_the_one_before(trainer, tmp_path, caplog):
    run = trainer(tmp_path, epochs=2)
    run.train()
    last = tmp_path / "last.pth"
    last.write_bytes(last.read_bytes()[:1000])
    again = trainer(tmp_path, epochs=2)
    with caplog.at_level(logging.WARNING):
        assert again.resume()
    assert again.state.done == 3
    assert "last.pth (1000 bytes)" in caplog.text
    (tmp_path / "previous.pth").write_bytes(b"")
    with pytest.raises(CheckpointReadError, match=r"last.pth .*previous.pth \(0 bytes\).*--resume"):
        again.resume()


def test_a_finished_run_resumes_to_its_end_or_goes_on(trainer, tmp_path):
    results = trainer(tmp_path, epochs=1).train()
    again = trainer(tmp_path, epochs=1)
    again.resume()
    assert again.train() == results
    longer = trainer(tmp_path, epochs=2)
    longer.resume()
    assert longer.train()["last"]["epoch"] == 2


def test_changed_settings_are_said_with_those_that_count(trainer, tmp_path, caplog):
    trainer(tmp_path, epochs=1).train()
    again = trainer(tmp_path, epochs=2, lr=0.5, momentum=0.5, weight_decay=0.1)
    with caplog.at_level(logging.WARNING):
        again.resume()
    said = [record.getMessage() for record in caplog.records]
    held = "counts; to change it, start from its weights in another folder."
    assert said == [
        "epochs is 2 here and was 1 in the run that is resumed: 2 counts.",
        f"lr is 0.5 here and was 0.02 in the run that is resumed: the checkpoint's 0.02 {held}",
        f"momentum is 0.5 here and was 0.9 in the run that is resumed: the checkpoint's 0.9 {held}",
        f"weight_decay is 0.1 here and was 0.0001 in the run that is resumed: the checkpoint's 0.0001 {held}",
    ]
    group = again.state.optimizer.param_groups[0]
    assert (group["momentum"], group["weight_decay"]) == (0.9, 0.0001)
    assert again.state.lr == pytest.approx(0.01)  # half way down a cosine from 0.02
    again.train()
    assert torch.load(tmp_path / "last.pth", weights_only=True)["config"]["lr"] == 0.02
    with pytest.raises(ValueError, match="optimizer = 'adamw', but it was 'momentum'"):
        trainer(tmp_path, optimizer="adamw").resume()


def test_a_flipped_bit_falls_back_and_does_not_take_the_place_of_a_sound_one(trainer, tmp_path, caplog):
    trainer(tmp_path, epochs=2).train()
    last = tmp_path / "last.pth"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    again = trainer(tmp_path, epochs=2)
    with caplog.at_level(logging.WARNING):
        again.resume()
    assert "previous.pth (step 3): 3 steps are lost. Damaged: " in caplog.text
    sound = (tmp_path / "previous.pth").read_bytes()
    again.train()
    assert (tmp_path / "previous.pth").read_bytes() == sound


def test_a_checkpoint_of_another_run_is_refused(trainer, tmp_path, caplog):
    trainer(tmp_path, epochs=1).train()
    with pytest.raises(ValueError, match="does not fit this run.*other settings"):
        trainer(tmp_path, ndpp=None).resume()
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, seed=5).resume()
    assert "not exact" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert not trainer(tmp_path / "empty").resume()
    assert "Nothing to resume" in caplog.text


def test_divergence_names_the_last_good_checkpoint(trainer, tmp_path):
    run = trainer(tmp_path, epochs=2, lr=1e20, ndpp=None, save_every=1)
    with pytest.raises(FloatingPointError, match=r"(?i)lower lr"):
        run.train()
    saved = tmp_path / "last.pth"
    if saved.exists():
        for value in torch.load(saved, weights_only=True)["model"].values():
            assert torch.isfinite(value).all()


def test_weights_to_start_from(trainer, tiny, tmp_path):
    first = trainer(tmp_path / "first", epochs=1)
    first.train()
    best = tmp_path / "first" / "best.pth"
    second = trainer(tmp_path / "second", weights=str(best))
    saved = torch.load(best, weights_only=True)["model"]
    assert all(torch.equal(value, saved[name]) for name, value in second.state.network.state_dict().items())
    with pytest.raises(FileNotFoundError, match="not found"):
        trainer(tmp_path / "third", weights=str(tmp_path / "none.pth"))
    with pytest.raises(ValueError, match="does not fit"):
        trainer(tmp_path / "third", weights=str(best), ndpp=None)
    best.write_bytes(best.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot read"):
        trainer(tmp_path / "third", weights=str(best))


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_stopped_while_it_evaluates_makes_up_for_it(trainer, tmp_path, differences, monkeypatch, epoch):
    settings = {**ALL, "save_every": 0}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trainer(whole, **settings).train()
    run, taken = trainer(parts, **settings), []

    def signalled(network, images, config):
        if not network.training and run.state.done == 3 * epoch and not torch.is_grad_enabled():
            taken.append(1)
            os.kill(os.getpid(), signal.SIGINT)
        return run_network(network, images, config)

    monkeypatch.setattr(evaluation, "run_network", signalled)
    with watching_for_stop(), pytest.raises(StoppedEarly, match=f"after step {3 * epoch} of 6: .*last.pth") as stopped:
        run.train()
    assert (stopped.value.code, taken) == (130, [1])  # of three batches
    monkeypatch.undo()
    again = trainer(parts, **settings)
    again.resume()
    again.train()
    for name in ("last.pth", "best.pth"):
        assert differences(whole / name, parts / name) == []


def test_a_run_that_lost_its_checkpoints_does_not_begin_anew(trainer, tmp_path):
    assert not trainer(tmp_path, epochs=1).resume()  # nothing was saved yet, as at the first start of a batch script
    trainer(tmp_path, epochs=1).train()
    for name in ("last.pth", "best.pth"):
        (tmp_path / name).unlink()
    with pytest.raises(
        CheckpointReadError,
        match=r"has lost its checkpoints: run.json says .* at step 3.*without --resume: in another folder",
    ):
        trainer(tmp_path, epochs=1).resume()
