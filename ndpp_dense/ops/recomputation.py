"""Whether a forward runs for the second time, during backward, as activation checkpointing makes it."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["in_backward", "in_backward_when_run"]


def in_backward() -> bool:
    """Whether autograd is running a backward pass in this thread."""
    return torch._C._current_graph_task_id() != -1


@torch.library.custom_op("ndpp_dense::in_backward", mutates_args=())
def in_backward_when_run(like: Tensor) -> Tensor:
    """:func:`in_backward` for compiled code, which asks when it runs and not when it is compiled.

    Args:
        like: A tensor of the device that is to hold the answer. (Without any, a compiler could ask once for all.)

    Returns:
        A scalar of bool.
    """
    return torch.full((), in_backward(), device=like.device)


@in_backward_when_run.register_fake
def _(like: Tensor) -> Tensor:
    return torch.empty((), dtype=torch.bool, device=like.device)
