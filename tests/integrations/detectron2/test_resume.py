"""A run that is killed and resumed must end with the bits of a run that was left alone."""

import random
import signal
import time

import pytest

from ndpp_dense.integrations.detectron2.results import format_results

pytestmark = pytest.mark.detectron2
NDPP = ("MODEL.META_ARCHITECTURE", "NDPPModel", "MODEL.NDPP.VERIFY", False)
LENGTH = (*NDPP, "SOLVER.MAX_ITER", 12, "SOLVER.CHECKPOINT_PERIOD", 3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def wait(process):
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output
    return output


def kill_at(process, metrics, iterations):
    """Send SIGKILL once so many iterations are on record."""
    while process.poll() is None:
        if metrics.is_file() and metrics.read_text().count("\n") >= iterations:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.005)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before it was killed"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_resumes_to_the_same_bits(train_net, folders, differences, workers):
    whole, killed = folders / "whole", folders / f"killed{workers}"
    if not whole.exists():
        wait(train_net(whole, *LENGTH))
    moment = random.randint(4, 9)
    words = (*LENGTH, "DATALOADER.NUM_WORKERS", workers)
    kill_at(train_net(killed, *words), killed / "metrics.json", moment)
    assert not (killed / "model_final.pth").exists()
    output = wait(train_net(killed, "--resume", *words))
    assert "Resuming from" in output
    assert differences(whole / "model_final.pth", killed / "model_final.pth") == [], f"killed at {moment}"
    assert (killed / "results.json").read_text() == (whole / "results.json").read_text()


def test_batch_statistics_accumulation_and_evaluation_resume_exactly(build_tiny, run_tiny, differences, tmp_path):
    words = (*NDPP, "MODEL.NDPP.STATISTICS", "batch")
    words = (*words, "SOLVER.ACCUMULATION_STEPS", 2, "TEST.EVAL_PERIOD", 2, "SOLVER.CHECKPOINT_PERIOD", 2)
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    run_tiny(*words, "SOLVER.MAX_ITER", 4, "OUTPUT_DIR", whole)
    run_tiny(*words, "SOLVER.MAX_ITER", 4, "OUTPUT_DIR", halves)
    # As after a kill between the first and the last checkpoint.
    for name in ("model_final.pth", "model_0000003.pth"):
        (halves / name).rename(halves / f"{name}.before")
    run_tiny(*words, "SOLVER.MAX_ITER", 4, "OUTPUT_DIR", halves, resume=True)
    assert differences(whole / "model_final.pth", halves / "model_final.pth") == []


def test_evaluating_and_saving_leave_no_trace_in_training(run_tiny, flat_checkpoint, tmp_path):
    words = (*NDPP, "MODEL.NDPP.STATISTICS", "batch")
    quiet, busy = tmp_path / "quiet", tmp_path / "busy"
    run_tiny(*words, "SOLVER.MAX_ITER", 3, "SOLVER.CHECKPOINT_PERIOD", 100, "OUTPUT_DIR", quiet)
    run_tiny(*words, "SOLVER.MAX_ITER", 3, "SOLVER.CHECKPOINT_PERIOD", 1, "TEST.EVAL_PERIOD", 1, "OUTPUT_DIR", busy)
    a, b = flat_checkpoint(quiet / "model_final.pth"), flat_checkpoint(busy / "model_final.pth")
    parts = (".model", ".rng", ".trainer.optimizer", ".trainer.hooks.StatsHook")
    names = [name for name in a if name.startswith(parts)]
    assert len(names) > 500
    for name in names:
        assert (a[name] == b[name]).all() if hasattr(a[name], "all") else a[name] == b[name], name


def test_a_finished_run_resumes_to_its_end(run_tiny, tmp_path):
    first = run_tiny("SOLVER.MAX_ITER", 2, "SOLVER.CHECKPOINT_PERIOD", 1, "OUTPUT_DIR", tmp_path / "run")
    again = run_tiny("SOLVER.MAX_ITER", 2, "OUTPUT_DIR", tmp_path / "run", resume=True)
    assert again.start_iter == 2
    sound = (tmp_path / "run" / "model_final.pth").read_bytes()
    (tmp_path / "run" / "model_final.pth").unlink()  # as after a kill between the last two checkpoints
    run_tiny("SOLVER.MAX_ITER", 2, "SOLVER.CHECKPOINT_PERIOD", 1, "OUTPUT_DIR", tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "model_final.pth").read_bytes() == sound
    assert format_results(again.results) == format_results(first.results)


def test_a_longer_run_continues_the_finished_one_and_says_what_changed(run_tiny, tmp_path, capsys):
    run_tiny("SOLVER.MAX_ITER", 2, "OUTPUT_DIR", tmp_path / "run")
    changed = ("SOLVER.MAX_ITER", 3, "SOLVER.BASE_LR", 0.02, "SOLVER.MOMENTUM", 0.5, "SEED", 8)
    capsys.readouterr()
    longer = run_tiny(*changed, "OUTPUT_DIR", tmp_path / "run", resume=True)
    assert (longer.start_iter, longer.iter) == (2, 3)
    said = [line for line in capsys.readouterr().out.splitlines() if "in the run that is resumed" in line]
    assert len(said) == 4
    for name, here, there, counts in [
        ("SEED", "8", "7", "the checkpoint's 7"),
        ("SOLVER.BASE_LR", "0.02", "0.01", "the checkpoint's 0.01"),
        ("SOLVER.MAX_ITER", "3", "2", "3"),
        ("SOLVER.MOMENTUM", "0.5", "0.9", "the checkpoint's 0.9"),
    ]:
        message = f"{name} is {here} here and was {there} in the run that is resumed: {counts} counts"
        assert any(message in line for line in said), said
    assert longer.scheduler.base_lrs[0] == 0.01
    assert longer.optimizer.param_groups[0]["momentum"] == 0.9
    assert longer.data_seed == 7
