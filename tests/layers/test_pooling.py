import pytest
import torch
from torch import nn

from ndpp_dense import WhiteningConfig, convert_to_ndpp
from ndpp_dense.layers.pooling import KINDS, POOLS, AvgPoolConv2d, DeformablePool3x3, spatial_operation


def conv3x3(stride=1, dilation=1):
    torch.manual_seed(0)
    return nn.Conv2d(4, 4, 3, stride, padding=dilation, dilation=dilation, bias=False)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 1)])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_operation_has_the_geometry_of_the_convolution(kind, stride, dilation, size):
    x = torch.randn(2, 4, *size, requires_grad=True)
    expected = conv3x3(stride, dilation)(x).shape
    operation = spatial_operation(kind, conv3x3(stride, dilation))
    y = operation(x)
    assert y.shape == expected
    y.sum().backward()
    assert x.grad.isfinite().all()
    empty = torch.zeros(0, 4, *size)
    assert operation(empty).shape == (0, *expected[1:])


def test_the_average_takes_the_stride_over_and_the_convolution_stays_what_it_was():
    conv = conv3x3(2)
    operation = spatial_operation("avg_conv", conv)
    assert operation.conv is conv
    assert conv.stride == (1, 1)
    x = torch.randn(1, 4, 5, 5)
    corner = torch.nn.functional.avg_pool2d(x, 2)[..., 0, 0]
    torch.testing.assert_close(operation.pool(x)[..., 0, 0], corner)
    torch.testing.assert_close(operation.pool(x)[..., 2, 2], x[..., 4, 4])  # of an odd map, the last pixel alone


def test_a_dilated_stage_averages_nothing():
    operation = AvgPoolConv2d(conv3x3(1, 2))
    x = torch.randn(1, 4, 6, 6)
    assert torch.equal(operation(x), conv3x3(1, 2)(x))


def test_deformable_pools_start_at_rest_and_learn_where_to_look():
    torch.manual_seed(0)
    pool = DeformablePool3x3(4)
    x = torch.randn(2, 4, 6, 6).relu()
    torch.testing.assert_close(pool(x), 0.5 * spatial_operation("max", conv3x3())(x))
    pool(x).square().sum().backward()
    assert pool.predictor.weight.grad.abs().sum() > 0
    assert sum(p.numel() for p in pool.parameters()) == 27 * (4 * 9 + 1)
    nn.init.normal_(pool.predictor.weight)
    pool.init_weights()
    assert not pool.predictor.weight.any()


@pytest.mark.parametrize("kind", POOLS)
def test_under_autocast(kind):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = torch.randn(2, 4, 6, 6, dtype=torch.bfloat16).relu().requires_grad_()
        y = spatial_operation(kind, conv3x3())(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad.isfinite().all()


def test_conversion_reaches_the_convolution_and_leaves_the_predictor():
    stages = [spatial_operation("avg_conv", conv3x3(2)), spatial_operation("deform_max", conv3x3())]
    model = nn.Sequential(*stages)
    report = convert_to_ndpp(model, WhiteningConfig())
    assert list(report.converted) == ["0.conv"]
    assert list(report.left) == ["1.predictor"]
    report.verify(model, torch.randn(4, 4, 8, 8))


@pytest.mark.parametrize("conv", [nn.Conv2d(4, 4, 1), nn.Linear(4, 4)])
def test_only_3x3_convolutions_are_replaced(conv):
    with pytest.raises(ValueError, match="'max' can replace a 3x3 nn.Conv2d only, not"):
        spatial_operation("max", conv)


def test_unknown_kind():
    with pytest.raises(ValueError, match="Unknown spatial operation 'median'. Choices: 'conv'"):
        spatial_operation("median", conv3x3())
