"""Solvers against numpy's float64 eigendecomposition and against the recurrence written out."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ndpp_dense.ops.inverse_sqrt import (
    QUINTIC_LOWER_BOUND,
    SOLVERS,
    SPECTRAL_FROM,
    SPECTRAL_GRADIENT_FROM,
    eigh,
    newton,
    quintic,
    quintic_coefficients,
)
from ndpp_dense.ops.spectral import spectral_newton


def _spd(eigenvalues, seed=0):
    """Symmetric matrices ``(G, D, D)`` with the given eigenvalues ``(G, D)``, float64."""
    rng = np.random.default_rng(seed)
    values = np.atleast_2d(np.asarray(eigenvalues, dtype=float))
    matrices = []
    for row in values:
        q, _ = np.linalg.qr(rng.normal(size=(len(row), len(row))))
        matrices.append(q @ np.diag(row) @ q.T)
    return torch.tensor(np.stack(matrices))


def _exact(a):
    values, vectors = np.linalg.eigh(a.double().numpy())
    return torch.tensor((vectors / np.sqrt(values)[:, None, :]) @ vectors.transpose(0, 2, 1))


def _recurrence(a, num_iters):
    """The paper's iteration as it stands, with the scale 1.5 / ||A||_F put in and taken out."""
    out = []
    for matrix in a:
        identity = torch.eye(len(matrix), dtype=matrix.dtype)
        scale = 1.5 / (matrix**2).sum().sqrt()
        x, m = identity, matrix * scale
        for _ in range(num_iters):
            step = (3 * identity - m) / 2
            x, m = x @ step, step @ step @ m
        out.append(x * scale.sqrt())
    return torch.stack(out)


class _CountProducts(TorchDispatchMode):
    """Counts matrix products, and eigendecompositions apart."""

    def __init__(self):
        super().__init__()
        self.products = self.decompositions = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.products += func.overloadpacket.__name__ in ("bmm", "mm", "baddbmm", "baddbmm_", "addmm")
        self.decompositions += "eigh" in func.overloadpacket.__name__
        return func(*args, **(kwargs or {}))


CONVERGED = {
    "eigh": lambda a: eigh(a),
    "newton 40": lambda a: newton(a, 40),
    "newton 40, recorded": lambda a: newton(a.requires_grad_(), 40).detach(),
    "newton 40, spectral": lambda a: (
        spectral_newton(a / a.norm(dim=(1, 2), keepdim=True), 40)[0] / a.norm(dim=(1, 2), keepdim=True).sqrt()
    ),
    "quintic 9": lambda a: quintic(a, 9),
}


@pytest.mark.parametrize("solve", CONVERGED.values(), ids=CONVERGED.keys())
def test_converged_solvers_equal_the_eigendecomposition(solve):
    a = _spd([np.geomspace(1e-3, 1, 6), np.geomspace(0.5, 40, 6)])
    torch.testing.assert_close(solve(a.clone()), _exact(a), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("solve", CONVERGED.values(), ids=CONVERGED.keys())
def test_repeated_eigenvalues_and_the_identity(solve):
    a = torch.cat([_spd([2.0, 2.0, 2.0, 0.1, 0.1, 5.0]), 3 * torch.eye(6, dtype=torch.float64)[None]])
    torch.testing.assert_close(solve(a.clone()), _exact(a), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("solve", CONVERGED.values(), ids=CONVERGED.keys())
def test_a_rank_deficient_covariance_with_eps(solve):
    rows = torch.randn(3, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a = (rows.T @ rows / 3 + 1e-2 * torch.eye(10, dtype=torch.float64))[None]
    torch.testing.assert_close(solve(a.clone()), _exact(a), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SOLVERS)
def test_one_by_one_matrices(name):
    a = torch.tensor([[[4.0]], [[0.25]]], dtype=torch.float64)
    torch.testing.assert_close(SOLVERS[name](a, 12), a.rsqrt(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("num_iters", [1, 2, 5, 9])
@pytest.mark.parametrize("size", [12, SPECTRAL_GRADIENT_FROM, SPECTRAL_FROM])
def test_newton_is_the_recurrence_whatever_the_path(num_iters, size):
    """Small matrices take the products, large ones the eigenvalues."""
    a = _spd(np.geomspace(1e-3, 10, size))
    expected = _recurrence(a, num_iters)
    torch.testing.assert_close(newton(a, num_iters), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(newton(a.clone().requires_grad_(), num_iters).detach(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("num_iters", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize(
    "eigenvalues",
    [np.geomspace(1e-3, 10, 9), [1.0] * 5 + [0.2] * 3 + [3.0], np.geomspace(1e-3, 1, SPECTRAL_GRADIENT_FROM)],
    ids=["distinct", "repeated", "large"],
)
def test_newton_gradient_is_that_of_the_recurrence(eigenvalues, num_iters):
    a = _spd([eigenvalues])
    size = len(eigenvalues)
    probe = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    probe = probe + probe.T

    def gradient(solve):
        base = a.clone().requires_grad_()
        (solve(0.5 * (base + base.mT), num_iters) * probe).sum().backward()
        return base.grad

    torch.testing.assert_close(gradient(newton), gradient(_recurrence), rtol=1e-8, atol=1e-10)


def test_newton_gradient_of_more_matrices_than_the_cache_holds(monkeypatch):
    a = _spd([np.geomspace(1e-2, 10, 7), np.geomspace(1, 3, 7), np.ones(7)])
    base = a.clone().requires_grad_()
    (expected,) = torch.autograd.grad(newton(base, 5).sin().sum(), base)
    monkeypatch.setattr("ndpp_dense.ops.newton.CACHE", 2 * 49 * 8)
    (grad,) = torch.autograd.grad(newton(base, 5).sin().sum(), base)
    torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("size", [3, SPECTRAL_GRADIENT_FROM])
def test_a_second_derivative_of_newton_is_refused_rather_than_wrong(size):
    a = torch.eye(size)[None].requires_grad_()
    (grad,) = torch.autograd.grad(newton(a, 3).square().sum(), a, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.sum().backward()


def test_newton_takes_the_path_that_is_documented():
    small, middle, large = (_spd(np.ones(size)) for size in (8, SPECTRAL_GRADIENT_FROM, SPECTRAL_FROM))
    recorded = [matrix.clone().requires_grad_() for matrix in (small, middle, large)]
    for matrix, spectral in zip([small, middle, large, *recorded], [0, 0, 1, 0, 1, 1], strict=True):
        with _CountProducts() as counter:
            newton(matrix, 5)
        assert counter.decompositions == spectral


@pytest.mark.parametrize("num_iters", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("solve", [newton, quintic])
def test_products_as_documented(solve, num_iters):
    with _CountProducts() as counter:
        solve(_spd(np.geomspace(0.1, 1, 6)), num_iters)
    newton_products = 5 * num_iters // 2 - 3 if num_iters % 2 == 0 else 5 * (num_iters - 1) // 2
    assert counter.products == (newton_products if solve is newton else 4 * num_iters - 3)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("eigenvalues", [[0.05, 0.4, 1.0, 2.0], [1.0, 1.0, 1.0, 0.3]], ids=["distinct", "repeated"])
def test_gradcheck(name, eigenvalues):
    a = _spd([eigenvalues, [0.7, 0.9, 1.5, 3.0]]).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: SOLVERS[name](0.5 * (m + m.mT), 5), a, atol=1e-6)


def test_five_newton_iterations_amplify_within_the_bound():
    """Beyond the scale, no eigenvalue is amplified more than 1.5 ** num_iters, however small it is."""
    for smallest in (1e-12, 1e-6, 1e-2):
        a = _spd([smallest, 1e-3, 0.5, 1.0, 7.0])
        scale = 1.5 / torch.linalg.matrix_norm(a)
        largest = torch.linalg.eigvalsh(newton(a, 5))[0, -1] / scale.sqrt()
        assert largest <= 1.5**5 * (1 + 1e-9)
    assert largest > 1.0  # it did amplify


def test_float32_newton_stays_symmetric_and_accurate():
    a = _spd(np.geomspace(1e-4, 10, 64)).float()
    x = newton(a, 5)
    torch.testing.assert_close(x, x.mT, rtol=0, atol=1e-4)
    torch.testing.assert_close(x.double(), _recurrence(a.double(), 5), rtol=1e-3, atol=1e-3)


def test_quintic_residual_on_its_interval():
    """Five steps leave at most 0.02 of the singular values of A^{1/2} X - I, whose first step is the worst."""
    smallest = QUINTIC_LOWER_BOUND**2  # of an eigenvalue over the Frobenius norm
    for spread in (8, 40):
        values = np.geomspace(smallest, 1, spread)
        values = np.maximum(values / np.linalg.norm(values), smallest)
        a = _spd(values)
        root = torch.linalg.inv(_exact(a))
        residual = torch.linalg.matrix_norm(root @ quintic(a, 5) - torch.eye(spread, dtype=a.dtype), 2)
        assert residual.item() <= 0.02
    assert torch.linalg.matrix_norm(root @ quintic(a, 3) - torch.eye(spread, dtype=a.dtype), 2).item() > 0.02


def test_quintic_residual_in_float32():
    """Rounding adds next to nothing, also where one direction, the mean, holds nearly all variance."""
    values = np.concatenate([[60.0, 5.0, 3.0, 1.0], np.geomspace(2e-3, 6e-3, 316)])
    directions = np.random.default_rng(0).normal(size=(len(values), len(values)))
    directions[:, 0] = 1
    q, _ = np.linalg.qr(directions)
    a = torch.tensor((q * values) @ q.T)[None]
    d = quintic(a.float(), 5).double()
    assert torch.linalg.matrix_norm(d @ a @ d - torch.eye(len(values), dtype=a.dtype), 2).item() <= 0.011


def test_quintic_coefficients_are_best_at_every_step():
    """The error equioscillates at four points (Chebyshev): no other quintic is better."""
    low, high = QUINTIC_LOWER_BOUND, 1.0
    for p, q, r in quintic_coefficients(4):
        t = np.linspace(low, high, 200001)
        error = t * (p + q * t**2 + r * t**4) - 1
        bound = np.abs(error).max()
        touching = np.abs(np.abs(error) - bound) < 1e-5 * max(bound, 1e-6)
        signs = np.sign(error[touching])
        assert 1 + (np.diff(signs) != 0).sum() >= 4
        low, high = 1 - bound, 1 + bound


@pytest.mark.parametrize("size", [6, SPECTRAL_GRADIENT_FROM])
@pytest.mark.parametrize("name", ["newton", "eigh"])
def test_autocast_around_the_backward_pass_alone_changes_nothing(name, size):
    a = _spd(np.linspace(0.1, 2.0, size)).float().requires_grad_()
    root = SOLVERS[name](a, 3)
    upstream = torch.randn_like(root)
    (plainly,) = torch.autograd.grad(root, a, upstream, retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (within,) = torch.autograd.grad(root, a, upstream)
    assert torch.equal(within, plainly)


@pytest.mark.parametrize("size", [6, SPECTRAL_GRADIENT_FROM, SPECTRAL_FROM])
def test_newton_is_differentiated_and_batched_by_functorch(size):
    a = _spd([np.linspace(0.1, 2.0, size), np.linspace(0.5, 1.0, size)])
    torch.testing.assert_close(torch.vmap(lambda m: newton(m[None], 3)[0])(a), newton(a, 3), rtol=1e-9, atol=1e-9)
    wanted = a.clone().requires_grad_()
    newton(wanted, 3).sin().sum().backward()
    found = torch.func.grad(lambda m: newton(m, 3).sin().sum())(a)
    found = (found + found.mT) / 2
    torch.testing.assert_close(found, wanted.grad, rtol=1e-8, atol=1e-8)
