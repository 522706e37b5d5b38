"""Where processes stand under each launcher."""

import pytest

from ndpp_dense.distributed.place import Place, expand_hosts, find_place, slurm_place, torchrun_place

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "1",
    "GROUP_RANK": "2",
}
SLURM = {
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NODELIST": "gpu[003-005,9],big1",
    "SLURM_JOB_ID": "70001",
}


def test_torchrun():
    assert torchrun_place(TORCHRUN) == Place(5, 8, 1, 2, "a", 1)
    elastic = {**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "3"}
    assert torchrun_place(elastic) == Place(5, 8, 1, 2, "a", 1, served=True, attempt=3)
    assert torchrun_place({"RANK": "5"}) is None


def test_slurm():
    hosts = ("gpu003", "gpu004", "gpu005", "gpu9", "big1")
    assert slurm_place(SLURM) == Place(5, 8, 1, 1, "gpu003", 30001, hosts=hosts)
    named = slurm_place({**SLURM, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "99"})
    assert (named.host, named.port) == ("10.0.0.1", 99)


@pytest.mark.parametrize("change", [{"SLURM_NTASKS": "1"}, {"SLURM_STEP_NUM_TASKS": "1"}])
def test_a_slurm_job_of_one_task_is_an_ordinary_process(change):
    assert slurm_place({**SLURM, **change}) is None


def test_a_batch_script_without_srun_is_an_ordinary_process():
    assert find_place({key: value for key, value in SLURM.items() if key != "SLURM_STEP_ID"}) is None


@pytest.mark.parametrize(
    ("nodes", "names"),
    [
        ("n1", ("n1",)),
        ("n1,n2", ("n1", "n2")),
        ("n[01-03]", ("n01", "n02", "n03")),
        ("r[1-2]n[7,9],x", ("r1n7", "r1n9", "r2n7", "r2n9", "x")),
        ("a-b[2]", ("a-b2",)),
        ("n[08-11]", ("n08", "n09", "n10", "n11")),
    ],
)
def test_host_lists(nodes, names):
    assert expand_hosts(nodes) == names
