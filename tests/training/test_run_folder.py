"""One run a folder, and one process that writes there."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ndpp_dense.training import run_folder
from ndpp_dense.training.checkpoint_files import choose_newest, save_checkpoint
from ndpp_dense.training.run_folder import claimed, note_run, read_run
from ndpp_dense.weights.files import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import os, sys, time
from ndpp_dense.training.run_folder import claimed
with claimed(sys.argv[1], ("last.pth",), resume=True):
    if os.fork() == 0:  # a loader process, which outlives a killed run
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Start another process that has claimed the folder."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, start_new_session=True)
    assert process.stdout.readline() == "held\n"
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_a_second_run_in_the_folder_is_told_and_a_killed_one_does_not_block(holder, tmp_path):
    for resume in (True, False):
        with (
            pytest.raises(ValueError, match=rf"in use by process {holder.pid} on .*, since 20.*--output FOLDER"),
            claimed(tmp_path, ("last.pth",), resume=resume),
        ):
            pass
    os.kill(holder.pid, signal.SIGKILL)  # its child lives on
    holder.wait()
    with claimed(tmp_path, ("last.pth",), resume=True):
        assert f"process {os.getpid()}" in (tmp_path / "run.lock").read_text()


def test_a_folder_with_a_run_needs_resume_or_another_folder(tmp_path):
    (tmp_path / "model_0000007.pth").touch()
    pattern = r"holds a run already \(model_0000007.pth\): continue it with --resume, .* --work-dir FOLDER"
    with (
        pytest.raises(ValueError, match=pattern),
        claimed(tmp_path, ("model_*.pth",), resume=False, flag="--work-dir"),
    ):
        pass
    with claimed(tmp_path, ("model_*.pth",), resume=True):
        pass


def test_a_start_that_came_to_nothing_is_no_obstacle(tmp_path):
    for name in ("log.txt", "config.yaml", "metrics.json", "last_checkpoint"):
        (tmp_path / name).touch()
    before = note_run(tmp_path)["run"]
    with claimed(tmp_path, ("model_*.pth",), resume=False):
        assert read_run(tmp_path)["run"] != before
        assert read_run(tmp_path)["sealed"]


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(run_folder.fcntl, "lockf", no_locks)
    with claimed(tmp_path, (), resume=False):
        pass
    assert "keeps no locks" in caplog.text


@pytest.mark.parametrize("content", ["", "[]", "{}", "\0\0", '{"run": "a", "sha256": "b"}'])
def test_a_damaged_record_says_nothing(tmp_path, content):
    first = note_run(tmp_path, step=3)
    assert read_run(tmp_path) == first
    assert note_run(tmp_path, step=4) == {**first, "step": 4}
    (tmp_path / "run.json").write_text(content)
    assert read_run(tmp_path) == {}


def test_a_flipped_digit_in_the_record_is_seen(tmp_path):
    note_run(tmp_path, step=3)
    record = tmp_path / "run.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "step": 5}))
    assert read_run(tmp_path) == {}


def test_a_run_that_is_killed_in_its_first_save_begins_anew_and_one_that_lost_its_files_is_refused(tmp_path):
    def choose():
        return choose_newest(sorted(tmp_path.glob("*.pth")), read_checkpoint, lambda path: None, tmp_path, adopt=True)

    def killed(stream):
        stream.write(b"half")
        raise KeyboardInterrupt

    note_run(tmp_path, sealed=True)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path / "a.pth", killed, 1)
    assert read_run(tmp_path)["step"] == 1
    assert choose().path is None
    save_checkpoint(tmp_path / "best.pth", lambda stream: torch.save({"model": {}}, stream), None)
    (tmp_path / "best.pth").unlink()  # weights for use are nothing to resume from
    assert choose().path is None
    save_checkpoint(tmp_path / "a.pth", lambda stream: torch.save({"model": {}}, stream), 2)
    assert choose().path == tmp_path / "a.pth"
    (tmp_path / "a.pth").unlink()
    with pytest.raises(ValueError, match=r"has lost its checkpoints: run\.json says that the run was saved at step 2"):
        choose()
