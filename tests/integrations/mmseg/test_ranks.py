"""Two processes on CPUs, started as torchrun starts them: killed, resumed, and equal to a run that was left alone."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("mmengine", reason="mmengine is not installed")

from ndpp_dense.integrations.mmengine.hooks import STATISTICS_KEY  # noqa: E402
from ndpp_dense.weights.files import read_checkpoint  # noqa: E402

pytestmark = [pytest.mark.mmseg, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def start(run_config):
    """Return a function that starts two ranks on the small demo, with MMEngine's own Runner."""

    def ranks(folder, **options):
        config = run_config(
            folder, train_cfg={"max_iters": 12, "val_interval": 4}, launcher="pytorch", report=True, **options
        )
        config.custom_hooks.append({"type": "SyncBuffersHook"})
        config.train_dataloader.num_workers = 1
        config.train_dataloader.persistent_workers = True
        file = Path(config.work_dir).with_suffix(".py")
        config.dump(file)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, str(ROOT / "tools" / "train_seg.py"), "--config", str(file), "--launcher", "pytorch"]
        command += ["--work-dir", config.work_dir, *(["--resume"] if options.get("resume") else [])]
        world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT}
        environments = [{**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
        return Path(config.work_dir), [
            subprocess.Popen(command, env=environment, start_new_session=True, **pipes) for environment in environments
        ]

    return ranks


def finish(processes):
    logs = [process.communicate(timeout=500)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], logs[0][-3000:]


def kill_after(file, processes):
    try:
        for _ in range(2400):
            if file.is_file() or any(process.poll() is not None for process in processes):
                break
            time.sleep(0.1)
        assert all(process.poll() is None for process in processes), processes[0].communicate()[0][-3000:]
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_killed_and_resumed_is_the_same_to_the_bit(start, same_weights, preset):
    option = {"model__ndpp__preset": preset}
    whole, processes = start("whole", **option)
    finish(processes)
    resumed, processes = start("resumed", **option)
    kill_after(resumed / "iter_6.pth", processes)
    assert not (resumed / "iter_12.pth").exists()
    _, processes = start("resumed", resume=True, **option)
    finish(processes)
    one, other = (read_checkpoint(folder / "iter_12.pth") for folder in (whole, resumed))
    assert len(one["state_dict"]) > 100
    assert same_weights(one["state_dict"], other["state_dict"]) == []
    assert same_weights(one[STATISTICS_KEY], other[STATISTICS_KEY]) == []
    assert (resumed / "results.json").read_text() == (whole / "results.json").read_text()
