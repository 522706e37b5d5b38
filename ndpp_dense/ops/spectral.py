"""The Newton iteration evaluated on eigenvalues: the same function and its exact gradient at a third of the cost.

All iterates are polynomials in the matrix and commute, so ``X = V p(l) V^T`` with ``p`` the scalar recurrence, and the
gradient is ``V (P * (V^T G V)) V^T`` with the divided differences ``P_ij = (p(l_i) - p(l_j)) / (l_i - l_j)`` (Daleckii
and Krein). The differences follow from the recurrence by the product rule, without a division, so equal eigenvalues are
no special case.

Shape suffixes: G matrices, D rows and columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class SpectralNewton(torch.autograd.Function):
    """``num_iters`` steps of ``X <- X(3I - M)/2, M <- ((3I - M)/2)^2 M`` from ``X = I, M = a``."""

    @staticmethod
    def forward(ctx: Any, a_GDD: Tensor, num_iters: int) -> Tensor:
        """Maps ``(G, D, D)``, symmetric with eigenvalues in (0, 3), to X of the same shape."""
        values, vectors = torch.linalg.eigh(a_GDD)
        x, m = torch.ones_like(values), values
        for _ in range(num_iters):
            step = 1.5 - 0.5 * m
            x, m = x * step, m * step * step
        ctx.save_for_backward(values, vectors)
        ctx.num_iters = num_iters
        return (vectors * x.unsqueeze(1)) @ vectors.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:
        """Gradient with respect to the matrix, symmetrised."""
        values, vectors = ctx.saved_tensors
        slopes = _divided_differences(values, ctx.num_iters)
        inner = slopes * (vectors.transpose(1, 2) @ grad_outputs[0] @ vectors)
        grad = vectors @ inner @ vectors.transpose(1, 2)
        return 0.5 * (grad + grad.transpose(1, 2)), None


def _divided_differences(values_GD: Tensor, num_iters: int) -> Tensor:
    """``(x(l_i) - x(l_j)) / (l_i - l_j)`` of the recurrence; the derivative where ``l_i = l_j``."""
    x, m = torch.ones_like(values_GD), values_GD
    dx = values_GD.new_zeros(*values_GD.shape, values_GD.shape[-1])
    dm = torch.ones_like(dx)
    for _ in range(num_iters):
        step = 1.5 - 0.5 * m
        dstep = -0.5 * dm
        si, sj, xi, mi = step.unsqueeze(2), step.unsqueeze(1), x.unsqueeze(2), m.unsqueeze(2)
        dx = dx * sj + xi * dstep  # d(x s) = dx s_j + x_i ds
        dm = dm * sj * sj + mi * dstep * (si + sj)  # d(m s^2) = dm s_j^2 + m_i ds (s_i + s_j)
        x, m = x * step, m * step * step
    return dx
