"""The predecessor, FastDeconv, differs in three definitions; with these aligned, outputs agree to rounding.

The reference is written after its published code, line by line; `docs/explanation/fast_deconv.md` has the figures.
"""

import math

import pytest
import torch
import torch.nn.functional as F

from ndpp_dense import NDConv2d, WhiteningConfig

ITERATIONS, EPS = 5, 1e-2


def inverse_root(a, start):
    """The coupled Newton-Schulz iteration from ``start * A / |A|``; FastDeconv starts at 1."""
    identity = torch.eye(len(a), dtype=a.dtype)
    scale = start / a.norm()
    y, z = a * scale, identity
    for _ in range(ITERATIONS):
        step = 0.5 * (3 * identity - z @ y)
        y, z = y @ step, step @ z
    return z * math.sqrt(scale)


def fast_deconv(x, weight, bias, block, start=1.0, sampling=1):
    """The forward pass of ``FastDeconv`` in training, groups of one."""
    channels, kernel = weight.shape[1:3]
    features, blocks = kernel**2 * block, channels // block
    if kernel > 1:
        rows = F.unfold(x, kernel, 1, kernel // 2, sampling).transpose(1, 2).contiguous()
    else:
        rows = x.permute(0, 2, 3, 1).reshape(-1, channels)[:: sampling**2]  # of the flat list of positions
    rows = rows.reshape(-1, features, blocks).transpose(1, 2).reshape(-1, features)  # every blocks-th column
    mean = rows.mean(0)
    rows = rows - mean
    cov = rows.T @ rows / len(rows) + EPS * torch.eye(features, dtype=x.dtype)
    w = weight.reshape(-1, features, blocks).transpose(1, 2).reshape(-1, features) @ inverse_root(cov, start)
    b = bias - (w @ mean).view(len(weight), -1).sum(1)
    w = w.view(-1, blocks, features).transpose(1, 2).reshape(weight.shape)
    return F.conv2d(x, w, b, padding=kernel // 2)


@pytest.fixture(params=[(1, 32, 8), (3, 8, 8)], ids=["1x1", "3x3"])
def case(request):
    """Kernel, block size, an input whose channels are mixed as those of a network are, weight and bias."""
    kernel, channels, block = request.param
    torch.manual_seed(0)
    mixing = torch.randn(channels, channels, dtype=torch.double) * torch.logspace(0, -2, channels, dtype=torch.double)
    x = torch.einsum("nchw,cd->ndhw", torch.randn(4, channels, 12, 12, dtype=torch.double), mixing) + 2
    weight, bias = torch.randn(6, channels, kernel, kernel, dtype=torch.double), torch.randn(6, dtype=torch.double)
    return kernel, block, x, weight, bias


def ours(x, weight, bias, block, sampling=1):
    fields = {"local_scale": "none", "block_size": block, "block_size_spatial": block, "eps": EPS}
    config = WhiteningConfig.paper("imagenet").override({**fields, "sampling_stride": sampling})
    layer = NDConv2d(weight.shape[1], len(weight), weight.shape[2], 1, weight.shape[2] // 2, config=config).double()
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
        return layer.train()(x)


def difference(left, right):
    return float((left - right).abs().max() / right.abs().max())


def test_with_the_definitions_aligned_outputs_agree(case):
    kernel, block, x, weight, bias = case
    theirs = fast_deconv(x, weight, bias, block, start=1.5)
    # Channels in the order in which FastDeconv's blocks take them.
    order = torch.arange(x.shape[1]).view(block, -1).T.flatten()
    assert difference(ours(x[:, order], weight[:, order], bias, block), theirs) < 1e-13


def test_each_definition_makes_a_difference(case):
    kernel, block, x, weight, bias = case
    aligned = fast_deconv(x, weight, bias, block, start=1.5)
    assert 0.005 < difference(fast_deconv(x, weight, bias, block), aligned) < 0.5
    if kernel == 1:
        assert difference(ours(x, weight, bias, block), aligned) > 0.05  # blocks of other channels
        # Every ninth of the flat list is no grid of every third on both axes.
        sampled = fast_deconv(x, weight, bias, block, start=1.5, sampling=3)
        order = torch.arange(x.shape[1]).view(block, -1).T.flatten()
        assert difference(ours(x[:, order], weight[:, order], bias, block, sampling=3), sampled) > 1e-3
