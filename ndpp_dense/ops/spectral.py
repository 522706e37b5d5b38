"""The Newton iteration evaluated on eigenvalues: the same function and its exact gradient at a third of the cost.

All iterates are polynomials in the matrix and commute, so ``X = V p(l) V^T`` with ``p`` the scalar recurrence, and the
gradient is ``V (P * (V^T G V)) V^T`` with the divided differences ``P_ij = (p(l_i) - p(l_j)) / (l_i - l_j)`` (Daleckii
and Krein). The differences follow from the recurrence by the product rule, without a division, so equal eigenvalues are
no special case.

Shape suffixes: G matrices, D rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["spectral_gradient", "spectral_newton"]


def spectral_newton(a_GDD: Tensor, num_iters: int) -> tuple[Tensor, list[Tensor]]:
    """``num_iters`` steps of ``X <- X(3I - M)/2, M <- ((3I - M)/2)^2 M`` from ``X = I, M = a``.

    Args:
        a_GDD: Symmetric, with eigenvalues in (0, 3).
        num_iters: At least 1.

    Returns:
        X, of the same shape; eigenvalues ``(G, D)`` and eigenvectors ``(G, D, D)`` for :func:`spectral_gradient`.
    """
    values, vectors = torch.linalg.eigh(a_GDD)
    x, m = torch.ones_like(values), values
    for _ in range(num_iters):
        step = 1.5 - 0.5 * m
        x, m = x * step, m * step * step
    return (vectors * x.unsqueeze(1)) @ vectors.transpose(1, 2), [values, vectors]


def spectral_gradient(history: Sequence[Tensor], num_iters: int, grad_x_GDD: Tensor) -> Tensor:
    """Gradient with respect to the matrix, symmetrised.

    Args:
        history: As :func:`spectral_newton` returned it.
        num_iters: The same.
        grad_x_GDD: Gradient with respect to X; need not be symmetric.
    """
    values, vectors = history
    slopes = _divided_differences(values, num_iters)
    inner = slopes.mul_(vectors.transpose(1, 2) @ grad_x_GDD @ vectors)
    grad = vectors @ inner @ vectors.transpose(1, 2)
    return torch.lerp(grad, grad.mT, 0.5)


def _divided_differences(values_GD: Tensor, num_iters: int) -> Tensor:
    """``(x(l_i) - x(l_j)) / (l_i - l_j)`` of the recurrence; the derivative where ``l_i = l_j``.

    With ``s = (3 - m) / 2``, so ``m = 3 - 2 s``, the differences of ``x s`` and ``m s^2`` are ``dx s_j - x_i dm / 2``
    and ``dm (s_i^2 + s_i s_j + s_j^2 - 1.5 (s_i + s_j))``.
    """
    x, m = torch.ones_like(values_GD), values_GD
    dx = dm = None
    for number in range(num_iters):
        step = 1.5 - 0.5 * m
        si, sj = step.unsqueeze(2), step.unsqueeze(1)
        if dx is None or dm is None:
            dx = torch.full((*values_GD.shape, values_GD.shape[-1]), -0.5, dtype=m.dtype, device=m.device)
        else:
            dx.mul_(sj).addcmul_(x.unsqueeze(2), dm, value=-0.5)
        if number < num_iters - 1:
            factor = (sj + (si - 1.5)).mul_(sj).add_(si * (si - 1.5))
            dm = factor if dm is None else dm.mul_(factor)
        x, m = x * step, m * step * step
    assert dx is not None
    return dx
