"""What only a CUDA device can show: TF32 and autocast stay out of the statistics."""

import copy

import pytest
import torch

from ndpp_dense import WhiteningConfig
from ndpp_dense.ops.inverse_sqrt import SOLVERS

DEVICE = "cuda"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture
def tf32():
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.mark.parametrize("amp", [None, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("statistics", ["batch", "ema"])
def test_statistics_are_those_of_the_cpu(kind, statistics, amp, tf32):
    make, shape = kind
    exact = make(WhiteningConfig(statistics=statistics))
    layer = copy.deepcopy(exact).to(DEVICE)
    for step in range(2):
        x = torch.randn(64, *shape, generator=torch.Generator().manual_seed(step)) * 3 + 1
        with torch.autocast(DEVICE, dtype=amp or torch.float16, enabled=amp is not None):
            y = layer(x.to(DEVICE))
        want = exact(x)
        y.float().square().mean().backward()
    for name, buffer in exact.whitening.named_buffers():
        got = layer.whitening.get_buffer(name)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.cpu(), buffer, rtol=1e-4, atol=1e-5)
    assert (y.cpu() - want).abs().mean() < 0.02 * want.abs().mean()
    assert torch.isfinite(layer.weight.grad).all()


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_are_those_of_the_cpu(name):
    a = torch.randn(3, 40, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a = (a @ a.mT / 60 + 0.01 * torch.eye(40)).requires_grad_()
    twin = a.detach().to(DEVICE).requires_grad_()
    expected, got = SOLVERS[name](a, 5), SOLVERS[name](twin, 5)
    expected.square().sum().backward()
    got.square().sum().backward()
    torch.testing.assert_close(got.detach().cpu(), expected.detach(), rtol=1e-6, atol=1e-8)
    grad, other = (g + g.mT for g in (a.grad, twin.grad.cpu()))
    torch.testing.assert_close(other, grad, rtol=1e-6, atol=1e-8)
