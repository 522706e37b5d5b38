"""NDConvTranspose2d against the explicit product, one output pixel at a time."""

import numpy as np
import pytest
import torch
from torch import nn

from ndpp_dense.layers import NDConvTranspose2d, WhiteningConfig

EXACT = WhiteningConfig(
    block_size=2,
    block_size_spatial=2,
    statistics="batch",
    solver="eigh",
    grad="full",
    eps=1e-2,
    sampling_stride=1,
    local_scale="l1",
)
GEOMETRIES = {
    "k = stride": {"kernel_size": 2, "stride": 2},
    "k = stride, padding": {"kernel_size": 3, "stride": 3, "padding": 1},
    "k = stride, output padding": {"kernel_size": 2, "stride": 2, "output_padding": 1},
    "k = 2 stride": {"kernel_size": 4, "stride": 2},
    "k = 2 stride, padding": {"kernel_size": 4, "stride": 2, "padding": 1},
    "k = 2 stride, wide padding": {"kernel_size": 4, "stride": 2, "padding": 3},
    "k = 2 stride, both paddings": {"kernel_size": 4, "stride": 2, "padding": 1, "output_padding": 1},
    "stride 1": {"kernel_size": 3, "padding": 1},
    "uneven": {"kernel_size": (4, 3), "stride": (2, 1), "padding": (1, 2), "output_padding": (1, 0)},
    "groups": {"kernel_size": 4, "stride": 2, "padding": 1, "groups": 2},
}


def _layer(geometry, **fields):
    torch.manual_seed(0)
    return NDConvTranspose2d(4, 6, **geometry, config=EXACT.override(fields)).double()


def _expected(reference, layer, x):
    config = layer.config
    return reference.conv_transpose2d(
        x.numpy(),
        layer.weight.detach().numpy(),
        layer.bias.detach().numpy(),
        stride=layer.stride,
        padding=layer.padding,
        output_padding=layer.output_padding,
        groups=layer.groups,
        block_size=layer.block_size,
        shared=config.shared_blocks,
        kind=config.local_scale,
        eps=config.eps,
        sampling=config.sampling_stride,
    )


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_output_is_the_explicit_product(reference, geometry, shared):
    layer = _layer(geometry, shared_blocks=shared)
    x = torch.randn(4, 4, 5, 4, dtype=torch.float64) * torch.tensor([1.0, 4, 0.2, 2]).view(-1, 1, 1, 1) + 0.3
    y, statistics = _expected(reference, layer, x)
    np.testing.assert_allclose(layer(x).detach().numpy(), y, atol=1e-9)
    for mean, matrix in zip(layer.whitening.running_mean, statistics, strict=True):
        np.testing.assert_allclose(mean.numpy(), matrix[0] * 0.1, atol=1e-9)


@pytest.mark.parametrize("kind", ["l1", "std", "none"])
@pytest.mark.parametrize("sampling", [1, 3])
def test_local_scales_and_sampling(reference, kind, sampling):
    layer = _layer(GEOMETRIES["k = 2 stride, padding"], local_scale=kind, sampling_stride=sampling)
    x = torch.randn(9, 4, 8, 9, dtype=torch.float64) * torch.rand(9, 1, 1, 1, dtype=torch.float64) + 1
    y, _ = _expected(reference, layer, x)
    np.testing.assert_allclose(layer(x).detach().numpy(), y, atol=1e-9)


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_the_reference_without_whitening_is_torch(reference, geometry):
    """What the reference rests on: with one window per pixel and D = I it is the transposed convolution."""
    plain = nn.ConvTranspose2d(4, 6, **geometry).double()
    x = torch.randn(2, 4, 5, 4, dtype=torch.float64)
    layer = _layer(geometry, local_scale="none")
    layer.load_state_dict(plain.state_dict(), strict=False)
    reference = type(reference)()
    reference.whitened = lambda samples, *_: (samples, [])
    np.testing.assert_allclose(_expected(reference, layer, x)[0], plain(x).detach().numpy(), atol=1e-12)


@pytest.mark.parametrize("geometry", ["k = stride", "k = 2 stride, both paddings", "groups", "uneven"])
@pytest.mark.parametrize(("shared", "solver"), [(False, "newton"), (True, "eigh")])
def test_gradcheck(geometry, shared, solver, gradcheck_layer):
    layer = _layer(GEOMETRIES[geometry], shared_blocks=shared, solver=solver, eps=0.05)
    gradcheck_layer(layer, torch.randn(2, 4, 3, 4, dtype=torch.float64))


def test_equal_kernel_and_stride_need_channels_only():
    assert NDConvTranspose2d(256, 8, 2, 2).whitening.running_mean.shape == (8, 32)
    assert NDConvTranspose2d(256, 8, 4, 2).whitening.running_mean.shape == (32, 8 * 4)


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_from_conv_transpose_starts_as_the_plain_layer_in_evaluation(geometry):
    conv = nn.ConvTranspose2d(4, 6, **geometry, bias=False).eval()
    layer = NDConvTranspose2d.from_conv_transpose(conv, WhiteningConfig(local_scale="none"))
    x = torch.randn(2, 4, 5, 7)
    assert layer.weight is conv.weight
    assert layer.bias.shape == (6,)
    torch.testing.assert_close(layer(x), conv(x))
    layer.to(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(x), conv(x))


@pytest.mark.parametrize(
    ("geometry", "named"),
    [
        ({"kernel_size": 3, "stride": 2}, r"kernel_size = \(3, 3\) is not a multiple of stride = \(2, 2\)"),
        ({"kernel_size": 2, "stride": 2, "dilation": 2}, r"dilation = \(2, 2\) is not supported"),
    ],
)
def test_unsupported_geometry_is_named(geometry, named):
    with pytest.raises(ValueError, match=named):
        NDConvTranspose2d(4, 4, **geometry)
