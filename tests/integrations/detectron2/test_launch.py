"""Spawned processes, Detectron2's groups of ranks on a machine, and that one failure ends the run."""

import importlib
import sys
import time
from pathlib import Path

import pytest

from ndpp_dense.integrations.detectron2.launch import LaunchOptions, launch

pytestmark = pytest.mark.detectron2
CPU = {"device": "cpu", "timeout": 0.5}


@pytest.fixture
def workers(monkeypatch):
    """Return a module that spawned processes, which take over sys.path, can import too."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("launch_workers")


def test_spawned_processes_form_a_group(workers, tmp_path):
    launch(workers.describe, LaunchOptions(num_gpus=2, **CPU), (tmp_path,))
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["(0, 2, 0, 2) 1", "(1, 2, 1, 2) 1"]


@pytest.mark.skipif(sys.platform != "linux", reason="names of threads are read from /proc")
def test_no_thread_of_a_group_outlives_the_run(workers, tmp_path):
    # One that waits for the interpreter's lock while the interpreter ends would abort the process.
    launch(workers.list_threads, LaunchOptions(num_gpus=2, **CPU), (tmp_path,))
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["[]", "[]"]


@pytest.mark.slow
def test_one_failing_rank_ends_the_run(workers):
    start = time.monotonic()
    with pytest.raises(Exception, match="rank 1 broke"):
        launch(workers.fail_on_one_rank, LaunchOptions(num_gpus=2, **CPU))
    assert time.monotonic() - start < 60


@pytest.mark.slow
def test_an_exit_code_is_passed_on(workers):
    with pytest.raises(SystemExit) as caught:
        launch(workers.leave, LaunchOptions(num_gpus=2, **CPU))
    assert caught.value.code == 2
