"""Leaving the group of processes, such that no thread of it wants the interpreter when that ends."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import torch.distributed as dist

__all__ = ["leave"]

_MOMENT = 0.1  # seconds without the interpreter's lock, for threads that want it


def leave(forget: Callable[[], None] | None = None) -> None:
    """Destroys the process groups of this process and waits for their threads.

    A thread of gloo drops the tensors of an exchange after the exchange is over, and needs the interpreter's lock for
    it. If the interpreter ends meanwhile, that thread ends the whole process by SIGABRT ("terminate called without an
    active exception"), after a run that had gone well. The threads end with their group, and a group ends when nothing
    holds it any more. Data-parallel models hold theirs for good, through torch; for those the threads get a moment.

    Args:
        forget: Called first, to let go of groups that a framework keeps.

    Raises:
        ValueError: There is no process group.
    """
    if not dist.is_initialized():
        raise ValueError("this process is in no process group; leave() belongs after init_process_group().")
    if forget is not None:
        forget()
    dist.destroy_process_group()
    gc.collect()
    time.sleep(_MOMENT)
