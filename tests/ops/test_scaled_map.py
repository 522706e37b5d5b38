import pytest
import torch
import torch.nn.functional as F

from ndpp_dense.ops import scaled_map as module
from ndpp_dense.ops.scaled_map import scaled_map


@pytest.mark.parametrize("singly", [1, 1 << 15], ids=["sample by sample", "together"])
@pytest.mark.parametrize("gradient", [True, False], ids=["with gradient", "without"])
@pytest.mark.parametrize("expands", [True, False], ids=["expands", "shrinks"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "channels_last"])
@pytest.mark.parametrize("samples", [0, 1, 3])
def test_a_convolution_is_that_of_the_plain_formula(samples, layout, expands, gradient, singly, monkeypatch):
    monkeypatch.setattr(module, "SINGLY", singly)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 4, 5, 6, generator=generator).to(memory_format=layout).requires_grad_(gradient)
    weight, bias = torch.randn(7, 4, 3, 3, generator=generator), torch.randn(7, generator=generator)
    scale = torch.rand(samples, 1, 1, 1, generator=generator) + 0.5
    kept = x.detach().clone(), scale.clone(), bias.clone()

    def convolve(x, bias):
        return F.conv2d(x, weight, bias)

    y = scaled_map(convolve, x, scale, bias, positions=2, expands=expands)
    exact = x.detach().double().requires_grad_(gradient)
    expected = scale * F.conv2d(exact, weight.double()) + bias.view(-1, 1, 1)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    if gradient:
        y.square().sum().backward()
        expected.square().sum().backward()
        torch.testing.assert_close(x.grad.double(), exact.grad, rtol=1e-4, atol=1e-4)
    for before, after in zip(kept, (x.detach(), scale, bias), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("expands", [True, False])
@pytest.mark.parametrize("rows", [1, 5])
def test_rows_have_a_factor_each(rows, expands):
    x, weight, bias = torch.randn(rows, 4), torch.randn(6, 4), torch.randn(6)
    scale = torch.rand(rows, 1) + 0.5
    y = scaled_map(lambda x, bias: F.linear(x, weight, bias), x, scale, bias, positions=0, expands=expands)
    torch.testing.assert_close(y, scale * (x @ weight.T) + bias, rtol=1e-5, atol=1e-5)


def test_without_scale_it_is_the_map_itself():
    x, weight, bias = torch.randn(3, 4), torch.randn(6, 4), torch.randn(6)
    y = scaled_map(lambda x, bias: F.linear(x, weight, bias), x, None, bias, positions=0, expands=True)
    assert torch.equal(y, F.linear(x, weight, bias))
