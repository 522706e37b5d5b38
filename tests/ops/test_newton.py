import pytest
import torch

from ndpp_dense.ops import newton


def _matrices(blocks: int) -> torch.Tensor:
    q, _ = torch.linalg.qr(torch.randn(blocks, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    values = torch.tensor([0.003, 0.2, 1.0, 1.0, 1.0 + 1e-9, 2.9], dtype=torch.float64)
    return (q * values) @ q.mT


class _Newton(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, num_iters):
        x, history = newton.newton_with_history(a, num_iters)
        ctx.save_for_backward(*history)
        ctx.num_iters = num_iters
        return x

    @staticmethod
    def backward(ctx, grad):
        return newton.newton_gradient(ctx.saved_tensors, ctx.num_iters, grad), None


@pytest.mark.parametrize("num_iters", [1, 2, 3, 4, 5])
def test_gradient(num_iters):
    a = _matrices(3).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: _Newton.apply(0.5 * (m + m.mT), num_iters), a, atol=1e-6)


@pytest.mark.parametrize("num_iters", [1, 2, 5])
def test_a_few_matrices_at_a_time_are_all_at_once(num_iters, monkeypatch):
    a = _matrices(3)
    whole = newton.newton_with_history(a, num_iters)[0]
    torch.testing.assert_close(newton.newton_products(a, num_iters), whole)
    monkeypatch.setattr(newton, "CACHE", 2 * 36 * 8)  # two of the three, then one
    assert newton.at_once(a) == 2
    torch.testing.assert_close(newton.newton_products(a, num_iters), whole)


def test_float32_is_as_exact_as_the_steps_one_by_one():
    a, identity = _matrices(4), torch.eye(6)
    x, m = identity, a.float()
    for _ in range(5):
        step = 1.5 * identity - 0.5 * m
        x, m = x @ step, step @ step @ m
    exact = newton.newton_products(a, 5)
    error, usual = ((found - exact).norm() for found in (newton.newton_products(a.float(), 5), x))
    assert error < max(2 * usual, 1e-6 * exact.norm())
