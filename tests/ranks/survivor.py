"""tools/pretrain.py whose process of one rank does itself harm at one step; see test_survival.py.

NDPP_TEST_HARM is KIND:RANK:STEP, NDPP_TEST_MARK a file that is made when it is done: a restarted run does it no more.
"""

import errno
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
warnings.filterwarnings("ignore")


def harm(state, kind):
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "term":
        os.kill(os.getpid(), signal.SIGTERM)
    elif kind == "int":  # as a terminal does: the process that started this one gets it too, and passes it on
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getppid(), signal.SIGINT)
    elif kind == "nan":
        next(state.network.parameters()).data[:] = float("nan")
    elif kind == "sleep":
        time.sleep(3600)
    elif kind == "cut":
        subprocess.run(["ip", "link", "set", os.environ["NDPP_TEST_LINK"], "down"], check=True)
    elif kind == "full":
        import torch

        def full(*args, **kwargs):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "last.pth")

        torch.save = full


def prepare():
    from ndpp_dense.pretrain.state import TrainingState

    kind, rank, step = (os.environ.get("NDPP_TEST_HARM") or "::").split(":")
    mark = Path(os.environ["NDPP_TEST_MARK"])
    advance = TrainingState.advance

    def harmed(self, loss):
        if kind and os.environ.get("RANK", "0") == rank and self.done == int(step) and not mark.exists():
            mark.touch()
            harm(self, kind)
        advance(self, loss)

    TrainingState.advance = harmed


if __name__ in ("__main__", "__mp_main__"):  # in spawned processes too
    prepare()

if __name__ == "__main__":
    from ndpp_dense.cli import main

    sys.exit(main(["pretrain", *sys.argv[1:]]))
