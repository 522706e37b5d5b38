"""NDConv2d against the explicit product of its data matrix, D and w."""

import numpy as np
import pytest
import torch
from torch import nn

from ndpp_dense.layers import NDConv2d, WhiteningConfig

EXACT = WhiteningConfig(
    block_size=4,
    block_size_spatial=2,
    statistics="batch",
    solver="eigh",
    grad="full",
    eps=1e-3,
    sampling_stride=1,
    local_scale="l1",
)
GEOMETRIES = {
    "1x1": {"kernel_size": 1},
    "3x3": {"kernel_size": 3, "padding": 1},
    "strided, dilated": {"kernel_size": (3, 2), "padding": (2, 1), "stride": (1, 2), "dilation": (2, 1)},
    "groups": {"kernel_size": 3, "padding": 1, "groups": 2},
    "depthwise": {"kernel_size": 3, "groups": 8},
    "same": {"kernel_size": (2, 3), "dilation": (2, 1), "padding": "same"},
    "valid": {"kernel_size": 3, "padding": "valid"},
    "reflect": {"kernel_size": 3, "padding": (1, 2), "padding_mode": "reflect"},
    "circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular", "stride": 2},
}


def _pad(conv):
    """The padding of a sample, from the arguments and not from the layer's own helper."""
    k, d = conv.kernel_size, conv.dilation
    if conv.padding == "same":
        total = [d[a] * (k[a] - 1) for a in (0, 1)]
        sides = [(t // 2, t - t // 2) for t in total]
    elif conv.padding == "valid":
        sides = [(0, 0), (0, 0)]
    else:
        sides = [(p, p) for p in conv.padding]
    mode = {"zeros": "constant", "reflect": "reflect", "circular": "wrap"}[conv.padding_mode]
    return lambda sample: np.pad(sample, [(0, 0), *sides], mode=mode)


def _layer(config, geometry):
    torch.manual_seed(0)
    return NDConv2d(8, 8, **geometry, config=config).double()


def _expected(reference, layer, x):
    config = layer.config
    return reference.conv2d(
        x.detach().numpy(),
        layer.weight.detach().numpy(),
        layer.bias.detach().numpy(),
        stride=layer.stride,
        dilation=layer.dilation,
        groups=layer.groups,
        pad=_pad(layer),
        block_size=layer.block_size,
        shared=config.shared_blocks,
        kind=config.local_scale,
        eps=config.eps,
        sampling=config.sampling_stride,
    )


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_output_is_the_explicit_product(reference, geometry, shared):
    layer = _layer(EXACT.override({"shared_blocks": shared}), geometry)
    x = torch.randn(5, 8, 7, 8, dtype=torch.float64) * torch.tensor([1.0, 5, 0.1, 2, 3]).view(-1, 1, 1, 1) + 0.3
    y, statistics = _expected(reference, layer, x)
    np.testing.assert_allclose(layer(x).detach().numpy(), y, atol=1e-8)
    assert len(layer.whitening.running_mean) == len(statistics)


@pytest.mark.parametrize("kind", ["l1", "std", "none"])
@pytest.mark.parametrize("sampling", [1, 2])
def test_local_scales_and_sampling(reference, kind, sampling):
    layer = _layer(EXACT.override({"local_scale": kind, "sampling_stride": sampling}), GEOMETRIES["3x3"])
    x = torch.randn(9, 8, 12, 11, dtype=torch.float64) * torch.rand(9, 1, 1, 1, dtype=torch.float64) + 1
    y, _ = _expected(reference, layer, x)
    np.testing.assert_allclose(layer(x).detach().numpy(), y, atol=1e-8)


def test_too_few_sampled_rows_use_every_position(reference):
    """18 columns want 72 rows: every second position of 4 samples gives 64, so all 256 are used."""
    layer = _layer(EXACT.override({"sampling_stride": 2}), GEOMETRIES["3x3"])
    x = torch.randn(4, 8, 8, 8, dtype=torch.float64)
    y = layer(x).detach()
    layer.config = EXACT
    dense, _ = _expected(reference, layer, x)
    np.testing.assert_allclose(y.numpy(), dense, atol=1e-8)


def test_a_converged_solver_whitens_the_data_matrix(reference):
    """The covariance of the whitened rows is I in every block; 5 Newton iterations do not get there."""

    def distance(**fields):
        layer = _layer(EXACT.override({"eps": 1e-9, "local_scale": "none", **fields}), GEOMETRIES["3x3"])
        mixing = torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        smooth = nn.functional.avg_pool2d(torch.randn(6, 8, 18, 18, dtype=torch.float64), 3, 1)
        x = torch.einsum("ij,njhw->nihw", mixing, smooth) + 3
        layer(x)
        mean, d = layer.whitening(lambda s: layer._data_matrix(x, None, (1, 1), s))
        samples = np.stack([reference.windows(_pad(layer)(sample), (3, 3)) for sample in x.numpy()])
        worst = 0.0
        for block in range(4):
            rows = samples[:, :, :, 2 * block : 2 * block + 2].reshape(-1, 18)
            white = (rows - mean[block].detach().numpy()) @ d[block].detach().numpy()
            worst = max(worst, np.abs(reference.moments(white)[1] - np.eye(18)).max())
        return worst

    assert distance(solver="eigh") < 1e-5
    assert distance(solver="newton", num_iters=30) < 1e-5
    assert distance(solver="quintic", num_iters=5) < 0.05
    assert distance(solver="newton", num_iters=5) > 0.1


@pytest.mark.parametrize("geometry", ["1x1", "strided, dilated", "groups", "same", "reflect"])
@pytest.mark.parametrize(("shared", "solver"), [(False, "newton"), (True, "eigh")])
def test_gradcheck(geometry, shared, solver, gradcheck_layer):
    layer = _layer(EXACT.override({"shared_blocks": shared, "solver": solver, "eps": 0.05}), GEOMETRIES[geometry])
    gradcheck_layer(layer, torch.randn(2, 8, 4, 5, dtype=torch.float64))


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_channels_last_changes_nothing(geometry):
    layer = _layer(EXACT, geometry)
    x = torch.randn(3, 8, 6, 7, dtype=torch.float64)
    y = layer(x)
    layer.to(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last)), y)


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_from_conv_starts_as_the_plain_layer_in_evaluation(geometry):
    conv = nn.Conv2d(8, 8, **geometry, bias=False).eval()
    layer = NDConv2d.from_conv(conv, WhiteningConfig(local_scale="none"))
    x = torch.randn(2, 8, 7, 7)
    assert layer.weight is conv.weight
    assert layer.bias.shape == (8,)
    assert not layer.training
    torch.testing.assert_close(layer(x), conv(x))


@pytest.mark.parametrize(
    ("channels", "groups", "kernel", "expected"),
    [(64, 1, 1, (2, 32)), (36, 1, 1, (2, 18)), (3, 1, 7, (1, 3 * 49)), (32, 4, 3, (4, 72)), (13, 1, 3, (13, 9))],
)
def test_block_is_the_largest_divisor(channels, groups, kernel, expected):
    layer = NDConv2d(channels, 8, kernel, groups=groups)
    assert layer.whitening.running_mean.shape == expected
    assert f"D={expected[0]}x{expected[1]}x{expected[1]}" in repr(layer)
