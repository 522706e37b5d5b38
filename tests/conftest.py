"""Shared by all tests: running a worker script in several processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def run_ranks(tmp_path_factory):
    """Runs ``worker.py RANK WORLD INIT_FILE OUT_FILE`` once per rank; returns what the ranks saved, in order."""

    def run(worker: Path, world: int = 2, timeout: float = 120.0):
        folder = tmp_path_factory.mktemp("ranks")
        outs = [folder / f"rank{rank}.pt" for rank in range(world)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        processes = [
            subprocess.Popen(
                [sys.executable, "-W", "error", str(worker), str(rank), str(world), str(folder / "init"), str(out)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank, out in enumerate(outs)
        ]
        try:
            logs = [process.communicate(timeout=timeout)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        for rank, (process, log) in enumerate(zip(processes, logs, strict=True)):
            assert process.returncode == 0, f"rank {rank}:\n{log}"
        return [torch.load(out) for out in outs]

    return run
