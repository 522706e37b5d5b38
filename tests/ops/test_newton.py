import pytest
import torch

from ndpp_dense.ops import newton


def _matrices(blocks: int) -> torch.Tensor:
    q, _ = torch.linalg.qr(torch.randn(blocks, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    values = torch.tensor([0.003, 0.2, 1.0, 1.0, 1.0 + 1e-9, 2.9], dtype=torch.float64)
    return (q * values) @ q.mT


@pytest.mark.parametrize("num_iters", [1, 2, 5])
def test_gradcheck_a_few_matrices_at_a_time(num_iters, monkeypatch):
    monkeypatch.setattr(newton, "CACHE", 2 * 36 * 8)  # two of the three, then one
    a = _matrices(3).requires_grad_()
    whole = newton.NewtonProducts.apply(a, num_iters)
    torch.testing.assert_close(newton.newton_products(a, num_iters), whole)
    torch.testing.assert_close(newton.newton_products(a.detach(), num_iters), whole.detach())
    assert torch.autograd.gradcheck(lambda m: newton.newton_products(0.5 * (m + m.mT), num_iters), a, atol=1e-6)


def test_a_second_derivative_is_refused_rather_than_wrong():
    a = torch.eye(3)[None].requires_grad_()
    (grad,) = torch.autograd.grad(newton.newton_products(a, 3).square().sum(), a, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.sum().backward()


def test_float32_is_as_exact_as_the_steps_one_by_one():
    a, identity = _matrices(4), torch.eye(6)
    x, m = identity, a.float()
    for _ in range(5):
        step = 1.5 * identity - 0.5 * m
        x, m = x @ step, step @ step @ m
    exact = newton.newton_products(a, 5)
    error, usual = ((found - exact).norm() for found in (newton.newton_products(a.float(), 5), x))
    assert error < max(2 * usual, 1e-6 * exact.norm())
