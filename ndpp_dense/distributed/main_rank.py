"""What one process decides for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

__all__ = ["decided_by_main"]

T = TypeVar("T")


def decided_by_main(decide: Callable[[], T]) -> T:
    """Calls a function on rank 0 alone; every rank gets what it returned, or its error.

    Args:
        decide: What it returns is sent by pickle.

    Returns:
        The same on all ranks.

    Raises:
        ValueError: On all ranks, where ``decide`` raised one.
        OSError: Likewise.
    """
    joined = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    if not joined:
        return decide()
    told: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            told[0] = decide()
        except (ValueError, OSError) as error:
            told[1] = error
    dist.broadcast_object_list(told)
    result, error = told
    if error is not None:
        raise error
    return result
