"""What a run of two processes leaves behind when one of them is harmed: message, exit code and checkpoints."""

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml

pytestmark = pytest.mark.timeout(1800)
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STEPS = 9  # three epochs of three steps


def _load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = _load("tiny_pretraining", HERE.parent / "pretrain" / "conftest.py")


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survival")
    tiny.write_tree(folder / "images")
    config = {**tiny.SETTINGS, "epochs": 3, "eval_every": 3, "save_every": 1}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    return ["--config", str(folder / "tiny.yaml"), "--data", str(folder / "images"), "--device", "cpu"]


@pytest.fixture(scope="module")
def start(words):
    """Return a function that starts two processes under torchrun, or spawned by the script itself (restarts=None)."""

    def run(output, *more, harm="", restarts=0, before=(), **variables):
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        torchrun += ["--max-restarts", str(restarts), "--monitor-interval", "0.1"]
        command = [
            *before,
            sys.executable,
            *(torchrun if restarts is not None else []),
            str(HERE / "survivor.py"),
            *words,
        ]
        command += ["--output", str(output), *more]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        environment |= {"NDPP_TEST_HARM": harm, "NDPP_TEST_MARK": str(Path(output).with_suffix(".mark"))}
        environment |= variables
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True, **pipes)

    return run


def finish(process, timeout=1000):
    try:
        return process.communicate(timeout=timeout)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def readable(folder):
    """All checkpoints of a folder, read; none is half a file."""
    return {file.name: torch.load(file, weights_only=True) for file in sorted(folder.glob("*.pth"))}


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """Return the folder of a run that was left alone."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    process = start(folder)
    output = finish(process)
    assert process.returncode == 0, output
    assert "2 processes on 1 machine(s) through gloo" in output
    return folder


def differs(one, other):
    a, b = (torch.load(folder / "last.pth", weights_only=True) for folder in (one, other))
    assert a["done"] == b["done"] == STEPS
    return [name for name in a["model"] if not torch.equal(a["model"][name], b["model"][name])]


def survives_a_kill(start, whole, folder, harm):
    process = start(folder, "--resume", harm=harm, restarts=1)
    output = finish(process)
    assert process.returncode == 0, output
    assert folder.with_suffix(".mark").exists()
    assert output.count("first exchange") == 2  # before the kill and after the restart
    assert set(readable(folder)) == {"last.pth", "previous.pth", "best.pth"}
    assert differs(whole, folder) == [], harm


def test_a_killed_rank_is_restarted_to_the_same_bits(start, whole, tmp_path):
    survives_a_kill(start, whole, tmp_path / "run", "kill:1:4")


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(20))
def test_twenty_kills_at_random_moments(start, whole, tmp_path, trial):
    """At any moment: also while a checkpoint is written, while statistics are estimated, and before the first step."""
    chance = random.Random(2022 + trial)
    rank, delay = chance.randrange(2), chance.uniform(0.0, 1.0)
    output, killed, attempt = "", False, 0
    while not killed:  # a run that was over before its time is none of the twenty: sooner, then
        attempt += 1
        assert attempt < 6, output
        folder = tmp_path / f"run{attempt}"
        process = start(folder, "--resume", restarts=1)
        pid = _pid_of_rank(process, rank)
        while not (folder / "last.pth").exists() and process.poll() is None and trial % 4:
            time.sleep(0.01)
        time.sleep(delay)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        output = finish(process)
        killed = "exitcode: -9" in output
        delay /= 2
    assert process.returncode == 0, f"trial {trial}, rank {rank}:\n{output}"
    # pytest -rP shows it
    sys.stdout.write(f"trial {trial}: killed rank {rank} after {2 * delay:.2f} s of attempt {attempt}\n")
    readable(folder)
    assert differs(whole, folder) == [], f"trial {trial}, rank {rank}"


def _pid_of_rank(agent, rank):
    """The process that torchrun has given a rank."""
    for _ in range(1200):
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "stat").read_text().rsplit(")", 1)[1].split()
                environment = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if int(words[1]) == agent.pid and f"RANK={rank}".encode() in environment:
                return int(folder.name)
        time.sleep(0.05)
    raise AssertionError(f"rank {rank} never started")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signalled", "restarts"),
    [
        pytest.param("term", None, id="spawned"),
        pytest.param("int", None, id="interrupted"),
        pytest.param("term", 0, id="torchrun"),
    ],
)
def test_a_scheduler_that_ends_the_run_finds_a_checkpoint(start, whole, tmp_path, signalled, restarts):
    more = ["--num-gpus", "2"] if restarts is None else []
    folder = tmp_path / "run"
    process = start(folder, *more, harm=f"{signalled}:1:4", restarts=restarts)
    output = finish(process)
    assert "stopped by a signal after step 5 of 9" in output or "stopped by a signal after step 6 of 9" in output
    code = 130 if signalled == "int" else 75
    assert process.returncode == (code if restarts is None else 1), output  # torchrun has a code of its own
    assert f"exitcode  : {code}" in output or restarts is None
    assert readable(folder)["last.pth"]["done"] in (5, 6)
    process = start(folder, "--resume", *more, restarts=restarts)
    output = finish(process)
    assert process.returncode == 0, output
    assert differs(whole, folder) == []


@pytest.mark.slow
def test_a_full_disk_leaves_the_checkpoint_before_and_says_so(start, tmp_path):
    folder = tmp_path / "run"
    process = start(folder, "--num-gpus", "2", harm="full:0:4", restarts=None)
    output = finish(process)
    assert process.returncode == 2, output
    assert "No space left on device" in output
    assert readable(folder)["last.pth"]["done"] == 4
    assert list(folder.glob(".*")) == []  # no half a file


def test_nan_on_one_rank_stops_all_with_one_message(start, tmp_path):
    folder = tmp_path / "run"
    process = start(folder, "--num-gpus", "2", harm="nan:1:4", restarts=None)
    output = finish(process)
    assert process.returncode == 2, output
    told = [line for line in output.splitlines() if line.startswith("error in process")]
    assert len(told) == 2, output
    own, other = (line[line.index("training diverged") :] for line in told)
    assert own == other
    assert own.startswith(
        "training diverged, and nothing was saved at step 5: 1 parameters hold NaN or infinity, first 'conv1.0.weight'"
    )
    assert readable(folder)["last.pth"]["done"] in (4, 5)


@pytest.mark.slow
def test_a_rank_that_stands_still_is_not_waited_for_beyond_the_timeout(start, tmp_path):
    folder = tmp_path / "run"
    began = time.monotonic()
    process = start(folder, "--num-gpus", "2", "--timeout", "0.2", harm="sleep:1:4", restarts=None)
    output = finish(process)
    assert process.returncode not in (0, None), output
    assert "imed out" in output or "imeout" in output
    assert "not a word from process 1" in output
    assert time.monotonic() - began < 300
    assert readable(folder)["last.pth"]["done"] == 4


@pytest.mark.slow
def test_a_network_that_is_cut_ends_both_hosts_within_the_timeout(start, tmp_path, two_hosts):
    """The link goes down and nobody hangs up: nothing arrives any more."""
    folder = tmp_path / "run"
    meeting = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": two_hosts.address, "MASTER_PORT": "29556"}
    began = time.monotonic()
    ends = [
        start(folder, "--timeout", "0.2", harm="cut:1:4", restarts=None, before=inside,
              **meeting, RANK=str(rank), GLOO_SOCKET_IFNAME=link, NDPP_TEST_LINK=link)
        for rank, (inside, link) in enumerate(two_hosts.ends)
    ]  # fmt: skip
    outputs = [finish(end, timeout=300) for end in ends]
    assert time.monotonic() - began < 200
    for rank, (end, output) in enumerate(zip(ends, outputs, strict=True)):
        assert end.returncode == 2, output
        assert "an exchange with the other processes broke off" in output, output
        assert rank == 1 or "not a word from process 1" in output, output
    assert readable(folder)["last.pth"]["done"] == 4


@pytest.mark.slow
def test_a_damaged_checkpoint_gives_way_to_the_one_before(start, whole, tmp_path):
    folder = tmp_path / "run"
    process = start(folder, harm="kill:0:6")
    finish(process)
    size = (folder / "last.pth").stat().st_size
    os.truncate(folder / "last.pth", size // 2)
    process = start(folder, "--resume")
    output = finish(process)
    assert process.returncode == 0, output
    assert "Falling back to the checkpoint before" in output
    assert json.loads((folder / "results.json").read_text()) == json.loads((whole / "results.json").read_text())
    assert differs(whole, folder) == []
