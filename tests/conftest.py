"""Shared by all tests: running a worker script in several processes, and which Detectron2 is tested."""

import atexit
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch


def _use_checkout(checkout: Path) -> None:
    """Puts a checkout of Detectron2, edited as ``ndpp install-detectron2 --source`` does, before an installed one."""
    from ndpp_dense.cli.install_detectron2.port import edit_tree
    from ndpp_dense.cli.install_detectron2.sources import copy_checkout

    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    top = copy_checkout(checkout, Path(folder.name))
    list(edit_tree(top / "detectron2"))
    sys.path.insert(0, str(top))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(top), os.environ.get("PYTHONPATH")]))  # of commands


if os.environ.get("DETECTRON2_SOURCE"):
    _use_checkout(Path(os.environ["DETECTRON2_SOURCE"]))


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
