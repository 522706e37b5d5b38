"""The Newton iteration by matrix products, two steps at a time, with a gradient written by hand.

All iterates are polynomials in the matrix, symmetric, and commute. So two steps ``S = (3I - M)/2`` and
``S' = (3I - S^2 M)/2`` multiply X by ``P = S S' = 1.5 S + S^2 (S^2 - 1.5 S)``, two products instead of three, and M by
``P^2``. For the same reason the gradient needs one product where automatic differentiation takes two: a perturbed
``C = A B`` stays symmetric, so of ``C'`` the factor A gets the symmetric part of ``C' B``.

Shape suffixes: G matrices, D rows and columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CACHE = 1 << 18  # bytes of a few matrices that the CPU takes at a time, so that their iterates stay near


def newton_products(a_GDD: Tensor, num_iters: int) -> Tensor:
    """``num_iters`` steps of ``X <- X(3I - M)/2, M <- ((3I - M)/2)^2 M`` from ``X = I, M = a``.

    Args:
        a_GDD: Symmetric, with eigenvalues in (0, 3).
        num_iters: At least 1; costs ``5 * num_iters // 2 - 3`` products if even, ``5 * (num_iters - 1) // 2`` if odd.

    Returns:
        X, of the same shape; differentiable once.
    """
    if torch.is_grad_enabled() and a_GDD.requires_grad:
        solve = NewtonProducts.apply
    else:
        solve = _iterate_plainly if torch.compiler.is_compiling() else _iterate_in_place
    size = max(1, a_GDD[:1].numel() * a_GDD.element_size())
    if a_GDD.device.type != "cpu" or torch.compiler.is_compiling() or len(a_GDD) * size <= CACHE:
        return solve(a_GDD, num_iters)
    return torch.cat([solve(a, num_iters) for a in a_GDD.split(max(1, CACHE // size))])


class NewtonProducts(torch.autograd.Function):
    """:func:`newton_products` with its gradient."""

    @staticmethod
    def forward(ctx: Any, a_GDD: Tensor, num_iters: int) -> Tensor:
        """Maps ``(G, D, D)`` to X of the same shape."""
        x, stages = _iterate(a_GDD, num_iters, keep=True)
        ctx.save_for_backward(*(tensor for stage in stages for tensor in stage))
        ctx.num_iters = num_iters
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:
        """Gradient with respect to the matrix, symmetrised; from the last stage to the first."""
        saved, sizes = ctx.saved_tensors, _stage_sizes(ctx.num_iters)
        grad_x, grad_m = _symmetric(grad_outputs[0]), None
        for number in reversed(range(len(sizes))):
            m, p, squared, x = saved[4 * number : 4 * number + 4]
            grad_p, below = grad_x, None  # of the first stage, whose X is P
            if number:
                grad_p, grad_x = grad_x @ x, _symmetric(grad_x @ p)
            if grad_m is not None:
                grad_p = torch.baddbmm(grad_p, _symmetric(grad_m @ m), p, alpha=2)
                below = grad_m @ squared
            grad_m = _gradient_of_m(_symmetric(grad_p), _step(m) if sizes[number] == 2 else None, below)
        assert grad_m is not None
        return grad_m, None


def _stage_sizes(num_iters: int) -> list[int]:
    """Steps that every stage takes: two, but one in the first if their number is odd."""
    return [1] * (num_iters % 2) + [2] * (num_iters // 2)


def _step(m_GDD: Tensor) -> Tensor:
    step = m_GDD * -0.5
    step.diagonal(dim1=1, dim2=2).add_(1.5)
    return step


def _iterate(m: Tensor, num_iters: int, keep: bool = False) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
    """X, and what the gradient needs of every stage: M, the factor P of X, its square, and X before."""
    sizes = _stage_sizes(num_iters)
    x, stages = m, []
    for number, size in enumerate(sizes):
        s = p = _step(m)
        if size == 2:
            q = s @ s
            p = torch.baddbmm(s, q, torch.add(q, s, alpha=-1.5), beta=1.5)
        before, x = x, x @ p if number else p
        last = number == len(sizes) - 1
        squared = p if last else p @ p
        if keep:
            stages.append((m, p, squared, before))
        m = m if last else squared @ m
    return x, stages


def _iterate_plainly(a_GDD: Tensor, num_iters: int) -> Tensor:
    return _iterate(a_GDD, num_iters)[0]


def _iterate_in_place(a_GDD: Tensor, num_iters: int) -> Tensor:
    """X by the same products in five buffers: fresh memory for every iterate would cost as much as some products."""
    m, x, s, p, q = (torch.empty_like(a_GDD) for _ in range(5))
    sizes = _stage_sizes(num_iters)
    m.copy_(a_GDD)
    for number, size in enumerate(sizes):
        torch.mul(m, -0.5, out=s)
        s.diagonal(dim1=1, dim2=2).add_(1.5)
        if size == 2:
            torch.bmm(s, s, out=q)
            torch.add(q, s, alpha=-1.5, out=p)
            s.baddbmm_(q, p, beta=1.5)
        if number == 0:
            x.copy_(s)
        else:
            torch.bmm(x, s, out=q)
            x, q = q, x
        if number < len(sizes) - 1:
            torch.bmm(s, s, out=p)
            torch.bmm(p, m, out=q)
            m, q = q, m
    return x


def _gradient_of_m(grad_p: Tensor, s: Tensor | None, below: Tensor | None) -> Tensor:
    """Gradient of ``M = 3I - 2S``.

    Args:
        grad_p: Of the stage's factor, symmetric.
        s: Its step, if ``P = 1.5 S + S^4 - 1.5 S^3``; None if ``P = S``.
        below: What comes from the M of the next stage, its symmetric part.
    """
    if s is None:
        inner, direct = None, -0.5
    else:
        first = grad_p @ s
        second = first @ s
        grad_q = _symmetric(torch.add(second, first, alpha=-0.75))  # half the gradient of S^2
        inner, direct = torch.baddbmm(second, grad_q, s, beta=0.75, alpha=-2), -0.75
    if below is not None:
        inner = below if inner is None else inner.add_(below)
    return grad_p * direct if inner is None else _symmetric(inner).add_(grad_p, alpha=direct)


def _symmetric(a: Tensor) -> Tensor:
    return torch.lerp(a, a.mT, 0.5)
