"""Mean and D of a step's own moments, differentiated by hand: few operations, and a gradient without a NaN."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ndpp_dense.ops.inverse_sqrt import is_finite_by_block, newton_root, newton_root_gradient
from ndpp_dense.ops.moments import Moments
from ndpp_dense.ops.precision import full_precision

__all__ = ["Fallback", "step_whitening"]


class Fallback(NamedTuple):
    """What is used in place of what is not usable.

    Attributes:
        mean: ``(G, D)``, about which the moments are.
        cov: ``(G, D, D)``.
        whitening: ``(G, D, D)``.
    """

    mean: Tensor
    cov: Tensor
    whitening: Tensor


def step_whitening(
    moments: Moments, usable: Tensor, stored: Fallback, eps: float, num_iters: int
) -> tuple[Tensor, Tensor]:
    """Mean, and ``(Cov + eps I)^{-1/2}`` by Newton's iteration.

    Args:
        moments: Of the step, about ``stored.mean``.
        usable: Whether they count, a scalar; if not, mean and D are those stored, without a gradient.
        stored: The same for a block whose D is not finite.
        eps: Added to the diagonal.
        num_iters: Of the iteration.

    Returns:
        ``(G, D)`` and ``(G, D, D)``.
    """
    count = moments.count.detach().clamp(min=1) if isinstance(moments.count, Tensor) else max(moments.count, 1)
    return _StepWhitening.apply(moments.total, moments.outer, count, usable, stored, eps, num_iters)  # type: ignore


class _StepWhitening(torch.autograd.Function):
    """With ``o = total / n``: ``mean = shift + o`` and ``Cov = outer / n - o o^T``.

    So ``n dL/douter = C`` and ``n dL/dtotal = dL/dmean - 2 C o``, where ``C = dL/dCov`` is symmetric.
    """

    @staticmethod
    def forward(
        ctx: Any,
        total_GD: Tensor,
        outer_GDD: Tensor,
        count: Any,
        usable: Tensor,
        stored: Fallback,
        eps: float,
        num_iters: int,
    ) -> tuple[Tensor, Tensor]:
        offset, outer = torch._foreach_div([total_GD, outer_GDD], count)  # pyright: ignore
        offset = torch.nan_to_num(offset)
        cov = torch.baddbmm(outer, offset.unsqueeze(2), offset.unsqueeze(1), alpha=-1)
        cov = torch.where(usable, cov, stored.cov)
        cov.diagonal(dim1=1, dim2=2).add_(eps)
        whitening, kept = newton_root(cov, num_iters)
        solved = is_finite_by_block(whitening) & usable
        ctx.save_for_backward(offset, usable, solved, *kept)
        ctx.count, ctx.num_iters = count, num_iters
        mean = torch.where(usable, stored.mean + offset, stored.mean)
        return mean, torch.where(solved, whitening, stored.whitening)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        offset, usable, solved, *kept = ctx.saved_tensors
        grad_mean, grad_whitening = grad_outputs
        with full_precision(offset.device):
            grad = newton_root_gradient(kept, ctx.num_iters, grad_whitening)
            grad = grad.masked_fill(~(is_finite_by_block(grad) & solved), 0)
            by_offset = torch.baddbmm((grad_mean * usable).unsqueeze(2), grad, offset.unsqueeze(2), alpha=-2)
        by_total, by_outer = torch._foreach_div([by_offset.squeeze(2), grad], ctx.count)  # pyright: ignore
        return by_total, by_outer, None, None, None, None, None
