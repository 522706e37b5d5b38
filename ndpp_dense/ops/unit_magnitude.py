"""Samples divided by their own mean magnitude, with a gradient by hand."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ndpp_dense.ops.absolute_sum import is_rectified

__all__ = ["unit_magnitude"]


def unit_magnitude(x: Tensor, scale: Tensor, dims: tuple[int, ...]) -> Tensor:
    """``s_n x_n`` where ``s_n = 1 / mean|x_n|``, differentiated through s as well.

    With ``y = s x`` the gradient is ``s (dL/dy - <dL/dy, y> sign(x) / size)``, so nothing but y and s is kept. A sample
    that is too dark for a scale, with s = 1, is treated alike: its share of the gradient is below rounding.

    Args:
        x: Samples.
        scale: s, as the local scale ``l1`` finds it, with ones for the dimensions of a sample; taken as a constant.
        dims: That one sample spans.

    Returns:
        In shape and data type of x.
    """
    return _UnitMagnitude.apply(x, scale, dims)  # type: ignore[no-any-return]


class _UnitMagnitude(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, dims: tuple[int, ...]) -> Tensor:
        y = (x * scale).to(x.dtype)
        ctx.save_for_backward(y, scale)
        ctx.dims, ctx.rectified = dims, is_rectified(x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:
        y, scale = ctx.saved_tensors
        (grad,) = grad_outputs
        size = prod([y.shape[d] for d in ctx.dims])
        along = (grad * y).sum(ctx.dims, keepdim=True, dtype=scale.dtype).to(y.dtype)
        if ctx.rectified:
            by_x = torch.add(grad, along, alpha=-1 / max(1, size))
        else:
            by_x = torch.addcmul(grad, torch.sign(y), along, value=-1 / max(1, size))
        return by_x.mul_(scale), None, None
