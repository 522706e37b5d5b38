"""A run that is killed with SIGKILL in the middle of an epoch, with loader processes, and resumed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("killed_worker.py")


def test_a_killed_run_resumes_to_the_same_bits(tree, trainer, settings, differences, tmp_path):
    changed = {"erasing": 0.5, "save_every": 2, "workers": 1}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.run(
        [sys.executable, WORKER, tree, killed, json.dumps({**settings, **changed}), "5"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    run = trainer(killed, **changed)
    assert run.resume()
    assert run.state.done == 4  # the second step of the second epoch was not saved, the first was
    run.train()
    trainer(whole, **changed).train()
    assert differences(whole / "last.pth", killed / "last.pth") == []
