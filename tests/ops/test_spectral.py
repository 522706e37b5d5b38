import pytest
import torch

from ndpp_dense.ops.spectral import spectral_gradient, spectral_newton


class SpectralNewton(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, num_iters):
        x, history = spectral_newton(a, num_iters)
        ctx.save_for_backward(*history)
        ctx.num_iters = num_iters
        return x

    @staticmethod
    def backward(ctx, grad):
        return spectral_gradient(ctx.saved_tensors, ctx.num_iters, grad), None


def _scalar_recurrence(value: float, num_iters: int) -> tuple[float, float]:
    """x and dx/dl of the scalar iteration, by the chain rule step after step."""
    x, dx, m, dm = 1.0, 0.0, value, 1.0
    for _ in range(num_iters):
        s, ds = (3 - m) / 2, -dm / 2
        x, dx, m, dm = x * s, dx * s + x * ds, s * s * m, 2 * s * ds * m + s * s * dm
    return x, dx


@pytest.mark.parametrize("num_iters", [1, 5])
def test_a_diagonal_matrix_goes_through_the_scalar_recurrence(num_iters):
    values = [0.01, 0.3, 1.0, 1.0, 2.5]
    a = torch.diag(torch.tensor(values, dtype=torch.float64))[None].requires_grad_()
    x = SpectralNewton.apply(a, num_iters)
    expected, slopes = zip(*(_scalar_recurrence(v, num_iters) for v in values), strict=True)
    torch.testing.assert_close(x[0].detach(), torch.diag(torch.tensor(expected, dtype=torch.float64)))
    x.diagonal(dim1=1, dim2=2).sum().backward()
    torch.testing.assert_close(a.grad[0], torch.diag(torch.tensor(slopes, dtype=torch.float64)))


@pytest.mark.parametrize("num_iters", [1, 4, 7])
def test_gradcheck_with_equal_and_nearly_equal_eigenvalues(num_iters):
    q, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    values = torch.tensor([[1.0, 1.0, 1.0 + 1e-9, 0.2, 2.9]], dtype=torch.float64)
    a = (q * values.unsqueeze(1)) @ q.T
    a.requires_grad_()
    assert torch.autograd.gradcheck(lambda m: SpectralNewton.apply(0.5 * (m + m.mT), num_iters), a, atol=1e-6)
