"""Sum of magnitudes over dimensions, at the speed of memory on CPUs too.

There ``torch.linalg.vector_norm`` adds one element after the other: several times slower than ``sum``, and with an
error that grows with their number (nearly 1e-4 of the sum for a million).
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from ndpp_dense.ops.eager import needs_gradient, runs_eagerly
from ndpp_dense.ops.precision import statistics_dtype

__all__ = ["absolute_sum", "is_rectified"]

CHUNK = 1 << 18  # elements whose magnitudes stay in a second-level cache between being written and being summed
WHOLE = 1 << 20  # elements that are likely to be near as a whole, since the layer before has just written them


def absolute_sum(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """``sum |x|``, differentiable, accumulated in float32 (float64 for float64 input).

    Args:
        x: Any shape, possibly with no elements.
        dims: Dimensions to sum over, the first not among them unless all are; they are kept, with size 1.
    """
    if x.device.type != "cpu":
        return torch.linalg.vector_norm(x, 1, dims, keepdim=True, dtype=statistics_dtype(x))
    if not runs_eagerly(x) or x.numel() == 0:  # what is traced or exported must be as exact as what is not
        return x.abs().sum(dims, keepdim=True, dtype=statistics_dtype(x))
    return _AbsoluteSum.apply(x, dims) if needs_gradient(x) else _absolute_sum(x, dims)


def is_rectified(x: Tensor) -> bool:
    """Whether autograd knows that these are outputs of a ReLU.

    They are their own magnitudes. So a derivative by a magnitude is 1, at 0 too: there ReLU lets no gradient through.
    """
    return type(x.grad_fn).__name__ == "ReluBackward0"


def _absolute_sum(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Part by part, so that what is read twice, or written and read, is near the second time."""
    dtype = statistics_dtype(x)
    if is_rectified(x) or (x.numel() <= WHOLE and not _has_sign(x)):
        return x.sum(dims, keepdim=True, dtype=dtype)
    if x.dim() == len(dims) or x.numel() <= CHUNK:
        return x.abs().sum(dims, keepdim=True, dtype=dtype)
    rows, at_once = _sample_rows(x, dims), max(1, CHUNK // prod(x.shape[1:]))
    if rows is None:
        return torch.cat([part.abs().sum(dims, keepdim=True, dtype=dtype) for part in x.split(at_once)])
    magnitudes = _Magnitudes(rows)
    if rows.shape[1] > CHUNK:
        sums = [magnitudes(part).sum(dtype=dtype) for row in rows for part in row.split(CHUNK)]
        total = torch.stack(sums).view(len(x), -1).sum(1)
    else:
        total = torch.cat([magnitudes(part).sum(1, dtype=dtype) for part in rows.split(at_once)])
    return total.view(-1, *[1] * len(dims))


class _Magnitudes:
    """Magnitudes of the parts of some rows, in the same memory for all of them.

    Parts without a sign are their own magnitudes. To look for signs takes less time than to write magnitudes, but is
    not done any more after the first part that has one.
    """

    def __init__(self, rows: Tensor) -> None:
        self._near = rows.new_empty(min(CHUNK, rows.numel()))
        self._signed = rows.numel() <= WHOLE  # looked at already

    def __call__(self, part: Tensor) -> Tensor:
        self._signed = self._signed or _has_sign(part)
        return torch.abs(part, out=self._near[: part.numel()].view_as(part)) if self._signed else part


def _has_sign(x: Tensor) -> bool:
    """Whether a sign bit is set (or may be): read as whole numbers such values are negative."""
    return x.dtype != torch.float32 or x.view(torch.int32).amin().item() < 0


def _sample_rows(x: Tensor, dims: tuple[int, ...]) -> Tensor | None:
    """A row for each sample in the order of memory; None if samples have gaps, or are not what is summed over."""
    if len(dims) < x.dim() - 1:
        return None
    if x.is_contiguous():
        return x.flatten(1)
    gapless = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return x.permute(0, 2, 3, 1).flatten(1) if gapless else None


class _AbsoluteSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dims: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(x)
        return _absolute_sum(x, dims)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return (grads[0] * x.sgn()).to(x.dtype), None
