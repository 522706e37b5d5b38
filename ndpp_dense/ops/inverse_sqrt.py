"""Principal inverse square roots of batches of symmetric positive definite matrices.

Shape suffixes: G matrices, D rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ndpp_dense.ops.newton import at_once, newton_gradient, newton_products, newton_with_history
from ndpp_dense.ops.precision import full_precision
from ndpp_dense.ops.spectral import spectral_gradient, spectral_newton

__all__ = [
    "QUINTIC_LOWER_BOUND",
    "SOLVERS",
    "SPECTRAL_FROM",
    "SPECTRAL_GRADIENT_FROM",
    "eigh",
    "is_finite_by_block",
    "newton",
    "newton_root",
    "newton_root_gradient",
    "quintic",
    "quintic_coefficients",
    "ridged",
]

SPECTRAL_FROM = 256  # on the CPU an eigendecomposition beats the products of an iteration from about this size
SPECTRAL_GRADIENT_FROM = 96  # the same where a gradient is wanted
QUINTIC_LOWER_BOUND = 3e-3  # smallest sqrt(eigenvalue / Frobenius norm) for which the quintic steps are optimal


def newton(a_GDD: Tensor, num_iters: int) -> Tensor:
    """Coupled inverse Newton iteration (Guo and Higham 2006; ND++, Acceleration Techniques).

    ``X <- X(3I - M)/2, M <- ((3I - M)/2)^2 M`` from ``X = I, M = 1.5 A / ||A||_F``. That scale keeps every eigenvalue
    of M below 3, where the iteration converges; without one it diverges on real covariances. A few iterations do not
    converge there either: they regularise, since no eigenvalue can be amplified by more than ``1.5 ** num_iters``.

    Args:
        a_GDD: Symmetric positive definite matrices.
        num_iters: Number of iterations, at least 1. Two at a time cost five matrix products, see
            :func:`newton_products`; on the CPU, where it is cheaper, the same function is evaluated on the eigenvalues.

    Returns:
        ``(G, D, D)``, an approximation of ``A^{-1/2}``; differentiable once.
    """
    transformed = torch._C._are_functorch_transforms_active()  # they differentiate and batch by themselves
    if a_GDD.requires_grad and torch.is_grad_enabled() and not transformed:
        return _NewtonRoot.apply(a_GDD, num_iters)  # type: ignore[no-any-return]
    size = torch.linalg.matrix_norm(a_GDD, keepdim=True) / 1.5
    m = a_GDD / size
    if _is_spectral(m, SPECTRAL_FROM) and not transformed:
        return spectral_newton(m, num_iters)[0] * size.rsqrt()
    return newton_products(m, num_iters) * size.rsqrt()


class _NewtonRoot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a_GDD: Tensor, num_iters: int) -> Tensor:
        d, kept = newton_root(a_GDD, num_iters)
        ctx.num_iters = num_iters
        ctx.save_for_backward(*kept)
        return d

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:
        with full_precision(grad_outputs[0].device):
            return newton_root_gradient(ctx.saved_tensors, ctx.num_iters, grad_outputs[0]), None


def newton_root(a_GDD: Tensor, num_iters: int) -> tuple[Tensor, list[Tensor]]:
    """:func:`newton`, and what :func:`newton_root_gradient` needs; records no gradient by itself."""
    size = torch.linalg.matrix_norm(a_GDD, keepdim=True) / 1.5
    m, root = a_GDD / size, size.rsqrt()
    solve = spectral_newton if _is_spectral(m, SPECTRAL_GRADIENT_FROM) else newton_with_history
    found = [solve(part, num_iters) for part in m.split(at_once(m))]
    x = found[0][0] if len(found) == 1 else torch.cat([x for x, _ in found])
    d = x * root
    return d, [size, root, m, d, *(tensor for _, history in found for tensor in history)]


def newton_root_gradient(kept: Sequence[Tensor], num_iters: int, grad_d_GDD: Tensor) -> Tensor:
    """Gradient of ``D = X(M) sqrt(c)`` by A, symmetric, with ``M = c A`` and ``c = 1.5 / ||A||_F`` differentiated too.

    With ``dc/dA = -c A / ||A||^2`` and ``||M|| = 1.5`` it is ``c (dM - M (<dM, M> + <dD, D> / 2) / 1.5^2)``.

    Args:
        kept: As :func:`newton_root` returned it.
        num_iters: The same.
        grad_d_GDD: Gradient by D; need not be symmetric.
    """
    size, root, m, d, *history = kept
    gradient = spectral_gradient if _is_spectral(m, SPECTRAL_GRADIENT_FROM) else newton_gradient
    grad_x = (grad_d_GDD * root).split(at_once(m))
    each = len(history) // len(grad_x)
    found = [gradient(history[i * each : (i + 1) * each], num_iters, g) for i, g in enumerate(grad_x)]
    grad = found[0] if len(found) == 1 else torch.cat(found)
    products = torch._foreach_mul([grad, grad_d_GDD], [m, d])  # pyright: ignore[reportPrivateImportUsage]
    by_m, by_d = (product.sum((1, 2), keepdim=True) for product in products)
    along = torch.add(by_m, by_d, alpha=0.5)
    return grad.addcmul_(m, along, value=-1 / 1.5**2).div_(size)


def is_finite_by_block(a_GDD: Tensor) -> Tensor:
    """Whether all of a matrix is finite (in square, too), ``(G, 1, 1)``; the device is not waited for."""
    return torch.linalg.vector_norm(a_GDD.detach(), dim=(1, 2), keepdim=True) < torch.inf


def ridged(a_GDD: Tensor, eps: float) -> Tensor:
    """``A + eps I``; in backward no gradient goes to matrices whose gradient is not finite.

    A matrix whose solution is not finite has none, even where the solution is not used: NaN times 0 is NaN.
    """
    transformed = torch._C._are_functorch_transforms_active()
    if a_GDD.requires_grad and torch.is_grad_enabled() and not transformed:
        return _Ridged.apply(a_GDD, eps)  # type: ignore[no-any-return]
    return _with_ridge(a_GDD, eps)


def _with_ridge(a_GDD: Tensor, eps: float) -> Tensor:
    a_GDD = a_GDD.clone()
    a_GDD.diagonal(dim1=1, dim2=2).add_(eps)
    return a_GDD


class _Ridged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a_GDD: Tensor, eps: float) -> Tensor:
        return _with_ridge(a_GDD, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:
        (grad_GDD,) = grad_outputs
        return torch.where(is_finite_by_block(grad_GDD), grad_GDD, 0), None


def _is_spectral(m_GDD: Tensor, size: int) -> bool:
    return m_GDD.device.type == "cpu" and m_GDD.shape[-1] >= size


def quintic(a_GDD: Tensor, num_iters: int) -> Tensor:
    """Coupled iteration with minimax quintic steps: the converged choice at few products.

    Each step multiplies X by ``p(M) = aI + bM + cM^2``, where ``t p(t^2)`` is the odd quintic nearest to 1 on the
    interval that the step before left; see :func:`quintic_coefficients`.

    Args:
        a_GDD: Symmetric positive definite matrices.
        num_iters: Number of steps, at least 1; 5 converge for condition numbers up to about 1e5. Costs
            ``4 * num_iters - 3`` matrix products.

    Returns:
        ``(G, D, D)``, an approximation of ``A^{-1/2}``; differentiable.
    """
    scale = 1 / torch.linalg.matrix_norm(a_GDD, keepdim=True)
    identity = torch.eye(a_GDD.shape[-1], dtype=a_GDD.dtype, device=a_GDD.device)
    m = a_GDD * scale
    x = step = None
    for a, b, c in quintic_coefficients(num_iters):
        # M between its factors: with both on one side rounding spoils the small eigenvalues (residual 0.03, not 0.01)
        m = m if step is None else step @ m @ step
        step = a * identity + b * m + c * (m @ m)
        x = step if x is None else x @ step
    assert x is not None
    return x * scale.sqrt()


def eigh(a_GDD: Tensor, num_iters: int = 0) -> Tensor:
    """Reference by eigendecomposition; exact gradient, also where eigenvalues coincide.

    Args:
        a_GDD: Symmetric positive definite matrices.
        num_iters: Ignored; there so that all solvers are called alike.

    Returns:
        ``(G, D, D)``, ``A^{-1/2}``; differentiable.
    """
    return _EighInverseSqrt.apply(a_GDD)  # type: ignore[no-any-return]


class _EighInverseSqrt(torch.autograd.Function):
    """``V diag(l^{-1/2}) V^T`` with the Daleckii-Krein derivative, which has no ``1 / (l_i - l_j)`` to blow up."""

    @staticmethod
    def forward(ctx: Any, a_GDD: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(a_GDD)
        smallest = torch.finfo(a_GDD.dtype).eps * values[:, -1:].clamp(min=torch.finfo(a_GDD.dtype).tiny)
        roots = values.clamp(min=smallest).sqrt()
        ctx.save_for_backward(roots, vectors)
        return (vectors / roots.unsqueeze(1)) @ vectors.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Tensor:
        roots, vectors = ctx.saved_tensors
        ri, rj = roots.unsqueeze(2), roots.unsqueeze(1)
        slope = -1 / (ri * rj * (ri + rj))  # (f(l_i) - f(l_j)) / (l_i - l_j) for f = l^{-1/2}
        with full_precision(vectors.device):
            inner = slope * (vectors.transpose(1, 2) @ grad_outputs[0] @ vectors)
            grad = vectors @ inner @ vectors.transpose(1, 2)
        return 0.5 * (grad + grad.transpose(1, 2))


SOLVERS: dict[str, Callable[[Tensor, int], Tensor]] = {"newton": newton, "quintic": quintic, "eigh": eigh}


@lru_cache(maxsize=32)
def quintic_coefficients(num_steps: int, lower: float = QUINTIC_LOWER_BOUND) -> tuple[tuple[float, float, float], ...]:
    """Coefficients (a, b, c) of successive best odd quintics ``t(a + b t^2 + c t^4)`` to 1 on shrinking intervals.

    Args:
        num_steps: Number of polynomials.
        lower: Lower end of the first interval ``[lower, 1]``, in (0, 1).

    Returns:
        One triple a step. The composition maps ``[lower, 1]`` to ``[1 - E, 1 + E]`` with the smallest E that greedy
        choice can reach.
    """
    steps = []
    low, high = lower, 1.0
    for _ in range(num_steps):
        coefficients, error = _minimax_quintic(low, high)
        steps.append(coefficients)
        low, high = 1 - error, 1 + error
    return tuple(steps)


def _minimax_quintic(low: float, high: float) -> tuple[tuple[float, float, float], float]:
    """Best odd quintic to the constant 1 on ``[low, high]`` by Remez exchange, and its largest error."""
    if high - low < 1e-6:  # converged: the Taylor polynomial of t * (t^2)^{-1/2} at 1 serves
        return (1.875, -1.25, 0.375), (high - low) ** 3
    inner = [low + (high - low) * f for f in (0.25, 0.75)]
    a = b = c = error = 0.0
    for _ in range(100):
        nodes = torch.tensor([low, *inner, high], dtype=torch.float64)
        signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
        system = torch.stack([nodes, nodes**3, nodes**5, signs], dim=1)
        a, b, c, error = torch.linalg.solve(system, torch.ones(4, dtype=torch.float64)).tolist()
        root = (9 * b * b - 20 * a * c) ** 0.5  # extrema: a + 3 b t^2 + 5 c t^4 = 0
        moved = sorted(((-3 * b + s * root) / (10 * c)) ** 0.5 for s in (-1, 1))
        if max(abs(m - i) for m, i in zip(moved, inner, strict=True)) < 1e-12:
            break
        inner = moved
    return (a, b, c), abs(error)
