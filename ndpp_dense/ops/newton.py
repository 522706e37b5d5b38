"""The Newton iteration by matrix products, two steps at a time, with a gradient written by hand.

All iterates are polynomials in the matrix, symmetric, and commute. So two steps ``S = (3I - M)/2`` and
``S' = (3I - S^2 M)/2`` multiply X by ``P = S S' = 1.5 S + S^2 (S^2 - 1.5 S)``, two products instead of three, and M by
``P^2``. The gradient takes one product for a square where automatic differentiation takes two: perturbations of A are
symmetric, so of a gradient ``C'`` by ``C = A A`` only the symmetric part ``K`` counts, and ``2 K A`` is one by A. No
other gradient needs to be symmetric: to add a transposition costs as much as a product of small matrices.

Shape suffixes: G matrices, D rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ndpp_dense.ops.eager import differentiates_by_hand

__all__ = ["CACHE", "at_once", "newton_gradient", "newton_products", "newton_with_history"]

CACHE = 1 << 18  # bytes of a few matrices that the CPU takes at a time, so that their iterates stay near


def newton_products(a_GDD: Tensor, num_iters: int) -> Tensor:
    """``num_iters`` steps of ``X <- X(3I - M)/2, M <- ((3I - M)/2)^2 M`` from ``X = I, M = a``; records no gradient.

    Args:
        a_GDD: Symmetric, with eigenvalues in (0, 3).
        num_iters: At least 1; costs ``5 * num_iters // 2 - 3`` products if even, ``5 * (num_iters - 1) // 2`` if odd.

    Returns:
        X, of the same shape.
    """
    if not differentiates_by_hand(a_GDD):
        return _iterate(a_GDD, num_iters)[0]
    parts = [_iterate_in_place(part, num_iters) for part in a_GDD.split(at_once(a_GDD))]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def newton_with_history(a_GDD: Tensor, num_iters: int) -> tuple[Tensor, list[Tensor]]:
    """:func:`newton_products`, and what :func:`newton_gradient` needs of its way."""
    return _iterate(a_GDD, num_iters)


def newton_gradient(history: Sequence[Tensor], num_iters: int, grad_x_GDD: Tensor) -> Tensor:
    """Gradient with respect to the matrix, symmetrised; from the last stage to the first.

    Args:
        history: As :func:`newton_with_history` returned it.
        num_iters: The same.
        grad_x_GDD: Gradient with respect to X; need not be symmetric.
    """
    sizes = _stage_sizes(num_iters)
    grad_x, grad_m = grad_x_GDD, None
    for number in reversed(range(len(sizes))):
        m, p, squared, x, q = history[5 * number : 5 * number + 5]
        grad_p, below = grad_x, None  # of the first stage, whose X is P
        if number:
            grad_p, grad_x = torch.bmm(x, grad_x), torch.bmm(grad_x, p)
        if grad_m is not None:
            of_square = _symmetric(torch.bmm(grad_m, m))
            grad_p = torch.baddbmm(grad_p, of_square, p, alpha=2)
            below = torch.bmm(squared, grad_m)
        grad_m = _gradient_of_m(grad_p, (_step(m), q) if sizes[number] == 2 else None, below)
    assert grad_m is not None
    return _symmetric(grad_m)


def at_once(a_GDD: Tensor) -> int:
    """How many of the matrices are best iterated together: on the CPU as many as the cache holds."""
    size = max(1, a_GDD[:1].numel() * a_GDD.element_size())
    together = a_GDD.device.type != "cpu" or torch.compiler.is_compiling()
    return max(1, len(a_GDD) if together else CACHE // size)


def _stage_sizes(num_iters: int) -> list[int]:
    """Steps that every stage takes: two, but one in the first if their number is odd."""
    return [1] * (num_iters % 2) + [2] * (num_iters // 2)


def _step(m_GDD: Tensor) -> Tensor:
    step = m_GDD * -0.5
    step.diagonal(dim1=1, dim2=2).add_(1.5)
    return step


def _iterate(m: Tensor, num_iters: int) -> tuple[Tensor, list[Tensor]]:
    """X, and what the gradient needs of every stage: M, the factor P of X, its square, X before, and S^2."""
    sizes = _stage_sizes(num_iters)
    x, history = m, []
    for number, size in enumerate(sizes):
        s = p = q = _step(m)
        if size == 2:
            q = torch.bmm(s, s)
            p = torch.baddbmm(s, q, torch.add(q, s, alpha=-1.5), beta=1.5)
        before, x = x, torch.bmm(x, p) if number else p
        last = number == len(sizes) - 1
        squared = p if last else torch.bmm(p, p)
        history += [m, p, squared, before, q]
        m = m if last else torch.bmm(squared, m)
    return x, history


def _iterate_in_place(a_GDD: Tensor, num_iters: int) -> Tensor:
    """X by the same products in five buffers: fresh memory for every iterate would cost as much as some products."""
    x, s, p, q, spare = (torch.empty_like(a_GDD) for _ in range(5))
    sizes = _stage_sizes(num_iters)
    m = a_GDD  # read only
    for number, size in enumerate(sizes):
        torch.mul(m, -0.5, out=s)
        s.diagonal(dim1=1, dim2=2).add_(1.5)
        if size == 2:
            torch.bmm(s, s, out=q)
            torch.add(q, s, alpha=-1.5, out=p)
            s.baddbmm_(q, p, beta=1.5)
        step = s
        if number == 0:
            x, s = s, x
        else:
            torch.bmm(x, step, out=q)
            x, q = q, x
        if number < len(sizes) - 1:
            torch.bmm(step, step, out=p)
            torch.bmm(p, m, out=q)
            m, q = q, spare if number == 0 else m
    return x


def _gradient_of_m(grad_p: Tensor, steps: tuple[Tensor, Tensor] | None, below: Tensor | None) -> Tensor:
    """Gradient of ``M = 3I - 2S``.

    Args:
        grad_p: Of the stage's factor.
        steps: S and ``Q = S^2``, if ``P = 1.5 S + Q (Q - 1.5 S)``; None if ``P = S``.
        below: What comes from the M of the next stage.
    """
    if steps is None:
        return grad_p * -0.5 if below is None else torch.add(below, grad_p, alpha=-0.5)
    s, q = steps
    left = torch.bmm(q, grad_p)
    grad_q = _symmetric(torch.baddbmm(left, grad_p, torch.add(q, s, alpha=-1.5)))
    grad_m = left.sub_(grad_p).mul_(0.75)
    if below is not None:
        grad_m.add_(below)
    return grad_m.baddbmm_(grad_q, s, alpha=-1)


def _symmetric(a: Tensor) -> Tensor:
    return torch.lerp(a, a.mT, 0.5)
