"""All forms of a pool agree, with PyTorch's and torchvision's kernels as references."""

import pytest
import torch
import torch.nn.functional as F

from ndpp_dense.ops.pooling import deform_pool3x3, max_pool3x3, shift_max3x3

LAYOUTS = [torch.contiguous_format, torch.channels_last]
GEOMETRIES = [(stride, dilation) for stride in (1, 2) for dilation in (1, 2, 4)]


def reference(x, stride, dilation):
    """Windows by unfold, which knows nothing of pools."""
    padded = F.pad(x, (dilation,) * 4, value=-torch.inf)
    columns = F.unfold(padded, 3, dilation=dilation, stride=stride)
    size = [-(-side // stride) for side in x.shape[-2:]]
    return columns.unflatten(1, (x.shape[1], 9)).amax(2).unflatten(2, size)


def draw(n=2, c=3, h=7, w=10, seed=0, dtype=torch.float32):
    return torch.randn(n, c, h, w, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("stride", "dilation"), GEOMETRIES)
def test_max_pool_is_exact(stride, dilation, layout, grad):
    x = draw().to(memory_format=layout).requires_grad_(grad)
    y = max_pool3x3(x, stride, dilation)
    assert torch.equal(y, reference(x, stride, dilation))
    assert torch.equal(shift_max3x3(x, stride, dilation), y)
    assert y.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 3), (8, 8), (9, 9)])
@pytest.mark.parametrize("stride", [1, 2])
def test_any_size(size, stride):
    x = draw(h=size[0], w=size[1])
    assert torch.equal(max_pool3x3(x, stride), reference(x, stride, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_data_types(dtype):
    x = draw(dtype=dtype).relu()
    assert torch.equal(max_pool3x3(x), F.max_pool2d(x, 3, 1, 1))
    assert max_pool3x3(x).dtype == dtype


@pytest.mark.parametrize(("stride", "dilation"), GEOMETRIES)
@pytest.mark.parametrize("pool", [max_pool3x3, shift_max3x3])
def test_gradient_where_no_taps_tie(pool, stride, dilation):
    x, twin = draw().requires_grad_(), draw().requires_grad_()
    weight = draw(h=-(-7 // stride), w=-(-10 // stride), seed=1)
    (pool(x, stride, dilation) * weight).sum().backward()
    (reference(twin, stride, dilation) * weight).sum().backward()
    torch.testing.assert_close(x.grad, twin.grad)


def test_a_tie_divides_the_gradient_and_loses_none_of_it():
    x = torch.ones(1, 1, 4, 4, requires_grad=True)
    shift_max3x3(x).sum().backward()
    assert x.grad.sum() == 16
    assert x.grad.min() > 0
    kernel = torch.ones(1, 1, 4, 4, requires_grad=True)
    max_pool3x3(kernel).sum().backward()
    assert kernel.grad.sum() == 16


def test_behind_a_relu_ties_at_zero_reach_no_weight():
    x, twin = draw(h=12, w=12).requires_grad_(), draw(h=12, w=12).requires_grad_()
    weight = draw(h=12, w=12, seed=1)
    (shift_max3x3(x.sub(1).relu()) * weight).sum().backward()
    (F.max_pool2d(twin.sub(1).relu(), 3, 1, 1) * weight).sum().backward()
    torch.testing.assert_close(x.grad, twin.grad)


def test_nan_is_not_hidden():
    x = draw()
    x[0, 0, 3, 3] = torch.nan
    for pool in (max_pool3x3, shift_max3x3):
        assert pool(x)[0, 0].isnan().sum() == 9


@pytest.mark.parametrize("stride", [1, 2])
def test_an_empty_batch(stride):
    x = draw(n=0).requires_grad_()
    offset, modulation = torch.zeros(0, 18, 7, 10), torch.zeros(0, 9, 7, 10)
    assert max_pool3x3(x.detach(), stride).shape == max_pool3x3(x, stride).shape == shift_max3x3(x, stride).shape
    max_pool3x3(x, stride).sum().backward()
    for reduction in ("max", "mean"):
        assert deform_pool3x3(x, offset, modulation, reduction).shape == x.shape
        assert deform_pool3x3(x.detach(), offset, modulation, reduction).shape == x.shape


def deformed_by_torchvision(x, offset, modulation, reduction, stride, dilation):
    """Deformable convolution whose filters each pick one tap."""
    ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed: extra 'pretrain'")
    channels = x.shape[1]
    one_hot = torch.eye(9, dtype=x.dtype).reshape(9, 1, 3, 3).repeat(channels, 1, 1, 1)
    geometry = {"stride": stride, "padding": dilation, "dilation": dilation}
    samples = ops.deform_conv2d(x, offset, one_hot, mask=modulation, **geometry).unflatten(1, (channels, 9))
    return samples.amax(2) if reduction == "max" else samples.mean(2)


def places(stride, n=2, h=7, w=10, spread=2.0):
    size = {"n": n, "h": -(-h // stride), "w": -(-w // stride)}
    return spread * draw(c=18, seed=2, **size), draw(c=9, seed=3, **size).sigmoid()


@pytest.mark.parametrize("reduction", ["max", "mean"])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_deformable_pools_are_torchvisions(stride, dilation, reduction):
    x, (offset, modulation) = draw(), places(stride)
    tensors = [t.clone().requires_grad_() for t in (x, offset, modulation)]
    twins = [t.clone().requires_grad_() for t in (x, offset, modulation)]
    y = deform_pool3x3(*tensors, reduction, stride, dilation)
    expected = deformed_by_torchvision(*twins, reduction, stride, dilation)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    without_grad = deform_pool3x3(x, offset, modulation, reduction, stride, dilation)
    torch.testing.assert_close(without_grad, expected, rtol=1e-5, atol=1e-5)
    weight = draw(h=y.shape[2], w=y.shape[3], seed=4)
    (y * weight).sum().backward()
    (expected * weight).sum().backward()
    for tensor, twin in zip(tensors, twins, strict=True):
        torch.testing.assert_close(tensor.grad, twin.grad, rtol=1e-4, atol=1e-4)


def test_a_deformable_max_at_rest_is_the_max_pool():
    x = draw().relu()
    y = deform_pool3x3(x, torch.zeros(2, 18, 7, 10), torch.ones(2, 9, 7, 10))
    torch.testing.assert_close(y, max_pool3x3(x))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (200, 3)])
def test_deformable_pools_of_any_size(size):
    h, w = size
    offset, modulation = places(1, h=h, w=w)
    y = deform_pool3x3(draw(h=h, w=w), offset, modulation)
    torch.testing.assert_close(
        y, deformed_by_torchvision(draw(h=h, w=w), offset, modulation, "max", 1, 1), rtol=1e-5, atol=1e-5
    )


def test_16_bits_cost_no_place():
    x, (offset, modulation) = draw(h=1, w=400), places(1, h=1, w=400)
    exact = deform_pool3x3(x, offset, modulation)
    half = deform_pool3x3(x.bfloat16(), offset, modulation)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, rtol=2e-2, atol=2e-2)


def test_in_place_activations_may_follow():
    x, (offset, modulation) = draw().requires_grad_(), places(1)
    for y in (deform_pool3x3(x, offset, modulation), max_pool3x3(x), shift_max3x3(x)):
        y.relu_().sum().backward()


def test_unknown_reduction():
    with pytest.raises(ValueError, match="'avg' of a deformable pool. Choices: 'max', 'mean'"):
        deform_pool3x3(draw(), *places(1), "avg")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch.compile itself
@pytest.mark.parametrize("grad", [True, False])
def test_compiled(grad):
    x, (offset, modulation) = draw().relu().requires_grad_(grad), places(1)

    def pools(x):
        return max_pool3x3(x, 2), deform_pool3x3(x, offset, modulation), deform_pool3x3(x, offset, modulation, "mean")

    for y, expected in zip(torch.compile(pools, backend="aot_eager", fullgraph=True)(x), pools(x), strict=True):
        torch.testing.assert_close(y, expected)
