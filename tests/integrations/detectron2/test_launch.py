"""Where processes stand under each launcher, and that one failure ends the run."""

import importlib
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from ndpp_dense.integrations.detectron2 import launch as launching
from ndpp_dense.integrations.detectron2.launch import LaunchOptions, launch

pytestmark = pytest.mark.detectron2
CPU = {"device": "cpu", "timeout": 0.5}
SLURM = {
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NODELIST": "gpu[003-005,9],big1",
    "SLURM_JOB_ID": "70001",
}


def test_one_process_runs_here_without_a_group():
    assert launch(lambda a, b: (a + b, dist.is_initialized()), LaunchOptions(**CPU), (1, 2)) == (3, False)


def test_torchrun():
    env = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1", "GROUP_RANK": "2"}
    assert launching._torchrun_place(env) == launching._Place(5, 8, 1, 2, "env://")
    assert launching._torchrun_place({"RANK": "5"}) is None


def test_slurm():
    place = launching._slurm_place(SLURM)
    assert place == launching._Place(5, 8, 1, 1, "tcp://gpu003:30001")
    named = launching._slurm_place({**SLURM, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "99"})
    assert named.url == "tcp://10.0.0.1:99"


@pytest.mark.parametrize("change", [{"SLURM_NTASKS": "1"}, {"SLURM_STEP_NUM_TASKS": "1"}])
def test_a_slurm_job_of_one_task_is_an_ordinary_process(change):
    assert launching._slurm_place({**SLURM, **change}) is None


def test_a_batch_script_without_srun_is_an_ordinary_process():
    assert launching._slurm_place({key: value for key, value in SLURM.items() if key != "SLURM_STEP_ID"}) is None


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n1,n2", "n1"), ("n[01-03]", "n01"), ("r[1-2]n[7,9],x", "r1n7"), ("a-b[2]", "a-b2")],
)
def test_first_host(nodes, first):
    assert launching._first_host(nodes) == first


def test_all_faults_are_reported_at_once():
    with pytest.raises(ValueError, match="--num-gpus 0 .*--machine-rank 3 .*--dist-url tcp://.*--timeout 0"):
        LaunchOptions(num_gpus=0, num_machines=2, machine_rank=3, timeout=0)


def test_more_gpus_than_there_are(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"2 GPU\(s\) needed on .*, 1 found.*--device cpu"):
        launch(print, LaunchOptions(num_gpus=2, device="cuda"))


@pytest.fixture
def workers(monkeypatch):
    """Return a module that spawned processes, which take over sys.path, can import too."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("launch_workers")


def test_spawned_processes_form_a_group(workers, tmp_path):
    launch(workers.describe, LaunchOptions(num_gpus=2, **CPU), (tmp_path,))
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["(0, 2, 0, 2) 1", "(1, 2, 1, 2) 1"]


@pytest.mark.slow
def test_one_failing_rank_ends_the_run(workers):
    start = time.monotonic()
    with pytest.raises(Exception, match="rank 1 broke|Connection closed|connection closed"):
        launch(workers.fail_on_one_rank, LaunchOptions(num_gpus=2, **CPU))
    assert time.monotonic() - start < 60


@pytest.mark.slow
def test_an_exit_code_is_passed_on(workers):
    with pytest.raises(SystemExit) as caught:
        launch(workers.leave, LaunchOptions(num_gpus=2, **CPU))
    assert caught.value.code == 2


def test_a_partner_that_never_comes_is_an_error(monkeypatch):
    env = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    for key, value in env.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConnectionError, match="rank 1 of 2 .*did not find|did not find each other .*rank 1 of 2"):
        launch(print, LaunchOptions(device="cpu", timeout=0.02))
