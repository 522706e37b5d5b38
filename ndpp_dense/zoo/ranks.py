"""One process a node does what all processes of the node need, and a failure of one is a failure of all."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from ndpp_dense.zoo.errors import ZooError

__all__ = ["once_a_node"]

T = TypeVar("T")


def once_a_node(action: Callable[[], T], place: str = "") -> T:
    """Runs an action in one process of every node first, then in the others, which find its effect.

    All ranks must call it. Without a process group it just runs the action.

    Args:
        action: Leaves something on this machine and returns it; a second run finds it there.
        place: Tells apart processes of one machine that do not share what the action leaves.

    Returns:
        What the action returned in this process.

    Raises:
        ZooError: It failed on some rank; on all of them, with the first one's message.
    """
    if _world_size() == 1:
        return action()
    import torch.distributed as dist

    here = (socket.gethostname(), place)
    first = _gather(here).index(here) == dist.get_rank()
    done = [_attempt(action)] if first else []
    _check(done)
    if not first:
        done = [_attempt(action)]
    _check(done)
    return done[0][0]


def _attempt(action: Callable[[], T]) -> tuple[Any, str]:
    """Result and message of the failure: what is raised must not keep this rank from meeting the others."""
    try:
        return action(), ""
    except Exception as error:
        return None, f"{type(error).__name__}: {error}" if not isinstance(error, ZooError) else str(error)


def _check(done: list[tuple[Any, str]]) -> None:
    failures = _gather(done[0][1] if done else "")
    failed = [(rank, message) for rank, message in enumerate(failures) if message]
    if failed:
        rank, message = failed[0]
        raise ZooError(f"rank {rank} of {len(failures)} failed: {message}")


def _world_size() -> int:
    """Without an import of torch, which fetching alone does not need: a process group is not there without it."""
    if "torch" not in sys.modules:
        return 1
    from ndpp_dense.ops.collectives import world_size

    return world_size()


def _gather(value: T) -> list[T]:
    import torch.distributed as dist

    values: list[Any] = [None] * _world_size()
    dist.all_gather_object(values, value)
    return values
