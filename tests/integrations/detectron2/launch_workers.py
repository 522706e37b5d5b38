"""What spawned processes run in test_launch.py; they must be able to import it by name."""

import atexit
import sys
from pathlib import Path

from detectron2.utils import comm


def describe(folder):
    ranks = comm.get_rank(), comm.get_world_size(), comm.get_local_rank(), comm.get_local_size()
    (folder / f"{comm.get_rank()}").write_text(f"{ranks} {sum(comm.all_gather(comm.get_rank()))}")


def fail_on_one_rank():
    if comm.get_rank() == 1:
        raise RuntimeError("rank 1 broke")
    comm.synchronize()


def leave():
    sys.exit(2)


def list_threads(folder):
    """Write which threads of exchanges are left when the interpreter is about to end (Linux)."""
    comm.all_gather(comm.get_rank())
    file = folder / f"{comm.get_rank()}"

    def write():
        names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
        file.write_text(str([name for name in names if "gloo" in name]))

    write()
    assert "pt_gloo_runloop" in file.read_text()
    atexit.register(write)
