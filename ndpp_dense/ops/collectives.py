"""Differentiable sum over the ranks of a process group."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup

__all__ = ["start_sum_over_ranks", "sum_over_ranks", "world_size"]


def world_size(group: ProcessGroup | None = None) -> int:
    """Number of ranks in ``group`` (the default group if None); 1 when nothing is initialised."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(x: Tensor, group: ProcessGroup | None = None) -> Tensor:
    """Sums ``x`` over all ranks; its backward sums the gradients over all ranks.

    Every rank must call it, in the same order and with the same shape. While gradients are recorded every rank also
    enters the backward collective, a rank whose own ``x`` needs no gradient (an empty one, say) included: otherwise
    the others would wait for it for ever.

    Args:
        x: Any shape, equal on all ranks; floating point.
        group: Process group; None is the default group.

    Returns:
        A tensor of the shape of ``x``; ``x`` itself when there is one rank only.
    """
    if world_size(group) == 1:
        return x
    if torch.is_grad_enabled() and not x.requires_grad:
        x = x.detach().requires_grad_()
    return _SumOverRanks.apply(x, group)  # type: ignore[no-any-return]


def start_sum_over_ranks(x: Tensor, group: ProcessGroup | None = None) -> dist.Work:
    """Begins to sum ``x`` over all ranks, in place and without a gradient.

    Args:
        x: Any shape, equal on all ranks; contiguous. Not to be touched before it is there.
        group: Process group; None is the default group.

    Returns:
        Its ``wait()`` returns when the sum is there; with NCCL it makes the current stream wait, not the caller.
    """
    work = dist.all_reduce(x, group=group, async_op=True)
    assert work is not None
    return work


class _SumOverRanks(torch.autograd.Function):
    """All-reduce, forward and backward: every rank's output depends on every rank's input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup | None) -> Tensor:
        ctx.group = group
        return _all_reduced(x, group)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:
        return _all_reduced(grad_outputs[0], ctx.group), None


def _all_reduced(x: Tensor, group: ProcessGroup | None) -> Tensor:
    x = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x, group=group)
    return x
