import pytest
import torch
import torch.nn.functional as F

from ndpp_dense.layers.local_scale import local_scale
from ndpp_dense.ops import scaled_conv
from ndpp_dense.ops.pointwise_conv import ConvGeometry, is_product, pointwise_conv, pointwise_gradients

PLAIN = ConvGeometry((1, 1), (0, 0), (1, 1), 1)


def tensors(shape=(2, 8, 10, 12), outputs=6, kernel=1, groups=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(dtype)
    return x, torch.randn(outputs, shape[1] // groups, kernel, kernel, generator=generator).to(dtype)


def test_what_is_taken_for_a_product():
    x, weight = tensors()
    assert is_product(x, weight, PLAIN)
    assert is_product(*tensors(dtype=torch.float64), PLAIN)
    assert is_product(x, weight, PLAIN._replace(stride=(2, 1)))
    assert is_product(x[:0], weight, PLAIN)


def test_what_is_left_to_a_convolution():
    x, weight = tensors()
    assert not is_product(*tensors(kernel=3), PLAIN)
    assert not is_product(*tensors(groups=2), PLAIN._replace(groups=2))
    assert not is_product(x, weight, PLAIN._replace(padding=(1, 0)))
    assert not is_product(x.contiguous(memory_format=torch.channels_last), weight, PLAIN)
    assert not is_product(*tensors(dtype=torch.bfloat16), PLAIN)
    assert not is_product(x, weight.double(), PLAIN)
    assert not is_product(*tensors((2, 64, 7, 7), 64), PLAIN)  # 49 positions for 64 x 64 weights
    assert not torch.vmap(lambda x: torch.tensor(is_product(x, weight, PLAIN)))(x.unsqueeze(0)).any()


@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
@pytest.mark.parametrize("samples", [0, 1, 3])
def test_output_is_that_of_the_convolution(samples, stride):
    x, weight = tensors((samples, 8, 10, 12))
    scale, bias = torch.rand(samples, 1, 1, 1) + 0.5, torch.randn(6)
    expected = scale * F.conv2d(x, weight, None, stride) + bias.view(-1, 1, 1)
    torch.testing.assert_close(pointwise_conv(x, scale, weight, bias, stride), expected, rtol=1e-5, atol=1e-5)


def test_a_gradient_by_the_input_is_left_out_where_none_is_wanted():
    x, weight = tensors()
    grad, scale = torch.randn(2, 6, 10, 12), torch.rand(2, 1, 1, 1)
    by_x, *others = pointwise_gradients(grad, x, scale, weight, (1, 1), by_input=False, rectified=False)
    assert by_x is None
    _, *same = pointwise_gradients(grad, x, scale, weight, (1, 1), by_input=True, rectified=False)
    for found, expected in zip(others, same, strict=True):
        assert torch.equal(found, expected)


def test_a_gradient_that_lies_otherwise_in_memory_is_read_as_it_is():
    x, weight = tensors(dtype=torch.float64)
    scale = torch.rand(2, 1, 1, 1).double()
    for grad in (torch.randn(2, 6, 10, 12).double(), torch.randn(2, 6, 1, 1).double().expand(2, 6, 10, 12)):
        other = grad.contiguous(memory_format=torch.channels_last)
        expected = pointwise_gradients(grad.contiguous(), x, scale, weight, (1, 1), by_input=True, rectified=False)
        for same in (other, grad):
            found = pointwise_gradients(same, x, scale, weight, (1, 1), by_input=True, rectified=False)
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_a_recorded_gradient_and_autocast_leave_it_to_the_convolution(monkeypatch):
    taken = []
    monkeypatch.setattr(scaled_conv, "pointwise_conv", lambda *_: taken.append(True))
    x, weight = tensors()
    scale, bias = torch.ones(2, 1, 1, 1), torch.zeros(6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scaled_conv.scaled_conv2d(x, scale, weight, bias, PLAIN)
    scaled_conv.scaled_conv2d(x, scale, weight.requires_grad_(), bias, PLAIN)
    assert not taken
    with torch.no_grad():
        scaled_conv.scaled_conv2d(x, scale, weight, bias, PLAIN)
    assert taken


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "channels_last"])
@pytest.mark.parametrize("spoilt", [torch.inf, 1e38])
def test_what_overflows_is_not_passed_over(spoilt, layout):
    """A scale of 0 makes a product skip its factors: the output would be the bias, and look sound."""
    x, weight = tensors()
    x[0] *= spoilt
    x = x.contiguous(memory_format=layout)
    with torch.no_grad():
        _, scale = local_scale("l1").apply(x, (1, 2, 3))
        y = scaled_conv.scaled_conv2d(x, scale, weight, torch.zeros(6), PLAIN)
    assert not torch.isfinite(y[0]).all()
    assert torch.isfinite(y[1]).all()
