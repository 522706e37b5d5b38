"""NDLinear against the explicit product of scaled rows, D and w."""

import numpy as np
import pytest
import torch
from torch import nn

from ndpp_dense.layers import NDLinear, WhiteningConfig

EXACT = WhiteningConfig(block_size_linear=4, statistics="batch", solver="eigh", grad="full", eps=1e-2)


def _layer(**fields):
    torch.manual_seed(0)
    return NDLinear(8, 5, config=EXACT.override(fields)).double()


def _expected(reference, layer, x):
    rows = reference.local_scale(x.reshape(-1, 8).numpy(), layer.config.local_scale)
    samples = rows[:, None, None, :, None]
    white, _ = reference.whitened(samples, samples, 4, layer.config.shared_blocks, layer.config.eps)
    y = white[:, 0, 0, :, 0] @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    return y.reshape(*x.shape[:-1], -1)


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("kind", ["l1", "std", "none"])
@pytest.mark.parametrize("shape", [(40, 8), (3, 7, 8), (2, 3, 4, 8)], ids=str)
def test_output_is_the_explicit_product(reference, shape, kind, shared):
    layer = _layer(local_scale=kind, shared_blocks=shared)
    x = torch.randn(shape, dtype=torch.float64) * torch.rand(*shape[:-1], 1, dtype=torch.float64) + 1
    np.testing.assert_allclose(layer(x).detach().numpy(), _expected(reference, layer, x), atol=1e-9)


def test_every_row_counts_whatever_the_sampling_stride(reference):
    layer = _layer(sampling_stride=5)
    x = torch.randn(64, 8, dtype=torch.float64)
    np.testing.assert_allclose(layer(x).detach().numpy(), _expected(reference, layer, x), atol=1e-9)


@pytest.mark.parametrize("solver", ["newton", "quintic", "eigh"])
@pytest.mark.parametrize("kind", ["l1", "std", "none"])
@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
def test_gradcheck(solver, kind, shared, gradcheck_layer):
    layer = _layer(solver=solver, local_scale=kind, shared_blocks=shared, eps=0.05)
    gradcheck_layer(layer, torch.randn(2, 6, 8, dtype=torch.float64))


def test_from_linear_starts_as_the_plain_layer_in_evaluation():
    linear = nn.Linear(96, 5, bias=False).eval()
    layer = NDLinear.from_linear(linear, WhiteningConfig(local_scale="none"))
    x = torch.randn(7, 96)
    assert layer.weight is linear.weight
    assert layer.bias.shape == (5,)
    assert layer.whitening.running_mean.shape == (2, 48)
    torch.testing.assert_close(layer(x), linear(x))
