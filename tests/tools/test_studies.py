"""What the comparisons record of a run that did not go well."""

import argparse
import json
from pathlib import Path

import pytest
from studies import engine
from studies.engine import Study, train

ENDINGS = {
    "stopped": "raise SystemExit(75)",
    "broken": "raise MemoryError('none left')",
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "diverged": "print('error: training diverged at iteration 3: the loss is nan'); raise SystemExit(2)",
    "good": "",
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "ROOT", tmp_path)
    monkeypatch.setattr(engine, "provenance", lambda: {"commit": "0123456"})

    def run_once(ending, losses=(2.0, 1.5)):
        study = Study(
            name="trial",
            text="",
            methods={"bn": "BN"},
            command=lambda *_: ["-c", ENDINGS[ending]],
            read=lambda output: ({1: {"top-1": 10.0}}, list(losses)),
            steps=lambda data, method: lambda: None,
            columns=(),
        )
        train(study, "", "bn", 0.1, 1, argparse.Namespace(set=[], data=Path(), note=None))
        return json.loads((study.folder / "bn_lr0.1_seed1.json").read_text())

    return run_once


@pytest.mark.parametrize("ending", ["stopped", "broken", "killed"])
def test_a_run_that_ended_early_is_no_result(run, tmp_path, ending):
    with pytest.raises(SystemExit, match=r"exit code .* after 2 iteration\(s\), and nothing is recorded.*console.txt"):
        run(ending)
    assert not list(tmp_path.rglob("*.json"))


def test_a_run_that_failed_before_its_first_iteration_is_no_result(run, tmp_path):
    with pytest.raises(SystemExit, match=r"after 0 iteration\(s\)"):
        run("broken", losses=())
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("ending", ["good", "diverged"])
def test_runs_that_came_to_an_end_are_recorded(run, ending):
    record = run(ending)
    assert record["diverged"] == (ending == "diverged")
    assert record["loss"] == [2.0, 1.5]


def test_a_run_begins_in_an_empty_folder(run, tmp_path):
    """What an attempt that was stopped wrote would be read as part of this one."""
    stale = tmp_path / "output" / "study_trial" / "bn_lr0.1_seed1" / "metrics.json"
    stale.parent.mkdir(parents=True)
    stale.write_text("{}")
    run("good")
    assert not stale.exists()
