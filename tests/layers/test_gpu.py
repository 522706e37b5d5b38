"""What only a CUDA device can show: TF32 and autocast stay out of the statistics."""

import copy

import pytest
import torch
from torch import nn

from ndpp_dense import WhiteningConfig, convert_to_ndpp
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


def _stale_net():
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 8, 1),
    ]
    model = nn.Sequential(*layers)
    convert_to_ndpp(model, WhiteningConfig(schedule="stale"), {"*": True})
    return model


def test_what_runs_beside_backward_is_what_the_cpu_does_one_after_the_other():
    """With work enough in backward that statistics and D are computed meanwhile, and a copy and a save in between."""
    exact = _stale_net().double()
    model = copy.deepcopy(exact).to(DEVICE)
    for step in range(6):
        x = torch.randn(32, 3, 48, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(step)) + step
        y, z = exact(x), model(x.to(DEVICE))
        torch.testing.assert_close(z.detach().cpu(), y.detach(), rtol=1e-6, atol=1e-6)
        for out, own in ((y, exact), (z, model)):
            out.square().mean().backward()
            with torch.no_grad():
                for p in own.parameters():
                    p -= 1e-2 * p.grad
                    p.grad = None
        if step == 3:
            model = copy.deepcopy(model)
    saved = model.state_dict()
    for name, value in exact.state_dict().items():
        torch.testing.assert_close(saved[name].cpu(), value, rtol=1e-6, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


def test_a_captured_step_moves_the_statistics_at_every_replay():
    model, twin = _stale_net().to(DEVICE), _stale_net().to(DEVICE)
    x = torch.randn(16, 3, 32, 32, device=DEVICE)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            model(x).square().mean().backward()
    torch.cuda.current_stream().wait_stream(stream)
    model.state_dict()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(x).square().mean().backward()
    for _ in range(4):
        graph.replay()
    for _ in range(7):
        twin(x).square().mean().backward()
    saved = twin.state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, saved[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
