"""Averages of many layers at once against numpy, layer by layer."""

import numpy as np
import pytest
import torch

from ndpp_dense.ops.averaging import Averages, average_moments, layer_of_block, move_averages, squared_magnitude
from ndpp_dense.ops.moments import Moments, pack_moments, packed_size, unpack_moments

BLOCKS, DIM = (2, 1, 3), 4


def _case(rows):
    """Averages and rows of three layers, and their moments about the averages' means."""
    rng = np.random.default_rng(0)
    total = sum(BLOCKS)
    factor = rng.normal(size=(total, DIM, DIM))
    before = Averages(
        torch.tensor(rng.normal(size=(total, DIM))),
        torch.tensor(factor @ factor.transpose(0, 2, 1)),
        torch.tensor(rng.uniform(0.1, 0.9, size=len(BLOCKS))),
    )
    data = [rng.normal(size=(count, blocks, DIM)) * 2 + 5 for count, blocks in zip(rows, BLOCKS, strict=True)]
    shifted = [layer - mean.numpy() for layer, mean in zip(data, before.mean.split(BLOCKS), strict=True)]
    moments = Moments(
        torch.tensor(rows, dtype=torch.float64),
        torch.tensor(np.concatenate([layer.sum(0) for layer in shifted])),
        torch.tensor(np.concatenate([np.einsum("rgi,rgj->gij", layer, layer) for layer in shifted])),
    )
    return before, data, moments


def _expected(before, data, momentum):
    """The averages as mixtures of what was there and of the rows, in the shares that weights give them."""
    means, covs, weights = [], [], []
    parts = (before.mean.split(BLOCKS), before.cov.split(BLOCKS), before.weight, data)
    for mean, cov, weight, rows in zip(*parts, strict=True):
        share = momentum * min(1, len(rows) / DIM) if len(rows) >= 2 else 0.0
        new = float(weight) + share * (1 - float(weight))
        share = share / new
        mean, cov = mean.numpy(), cov.numpy()
        mixed = (1 - share) * mean + share * (rows.mean(0) if share else 0)
        second = (1 - share) * (cov + np.einsum("gi,gj->gij", mean, mean))
        if share:
            second = second + share * np.einsum("rgi,rgj->gij", rows, rows) / len(rows)
        means.append(mixed)
        covs.append(second - np.einsum("gi,gj->gij", mixed, mixed))
        weights.append(new)
    return np.concatenate(means), np.concatenate(covs), np.array(weights)


@pytest.mark.parametrize("rows", [(50, 60, 70), (3, 50, 2), (1, 50, 0)])
def test_averages_are_mixtures(rows):
    before, data, moments = _case(rows)
    index = layer_of_block(BLOCKS, torch.device("cpu"))
    after, usable = average_moments(before, moments, 0.3, index)
    for value, expected in zip(after, _expected(before, data, 0.3), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-10, atol=1e-10)
    assert usable.tolist() == [rows[layer] >= 2 for layer in index]


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e200])
@pytest.mark.parametrize("where", ["total", "outer"])
def test_a_broken_block_stops_its_layer_and_no_other(value, where):
    before, _, moments = _case((50, 60, 70))
    index = layer_of_block(BLOCKS, torch.device("cpu"))
    whole, _ = average_moments(before, moments, 0.3, index)
    getattr(moments, where)[4].view(-1)[1] = value  # the second block of the third layer
    after, usable = average_moments(before, moments, 0.3, index)
    assert usable.tolist() == [True] * 3 + [False] * 3
    for got, stored, expected in zip(after, before, whole, strict=True):
        last = 2 if len(got) == len(BLOCKS) else 3
        torch.testing.assert_close(got[:last], expected[:last], rtol=0, atol=0)
        torch.testing.assert_close(got[last:], stored[last:], rtol=0, atol=0)


def test_packed_moments_of_layers_come_back():
    _, _, moments = _case((50, 60, 70))
    packed = pack_moments(moments)
    assert packed.shape == (packed_size(len(BLOCKS), sum(BLOCKS), DIM),)
    for got, expected in zip(unpack_moments(packed, len(BLOCKS), sum(BLOCKS), DIM), moments, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dim", [64, 144])
def test_of_a_second_moment_hardly_more_than_half_travels(dim):
    assert packed_size(1, 8, dim) - 1 - 8 * dim <= 0.51 * 8 * dim * dim


def test_the_index_first_needed_under_inference_mode_serves_in_training():
    with torch.inference_mode():
        index = layer_of_block((3, 7), torch.device("cpu"))
    assert index.tolist() == [0] * 3 + [1] * 7
    assert not index.is_inference()


@pytest.mark.parametrize("rows", [50, 3, 2])
def test_averages_moved_in_place_are_mixtures(rows):
    before, data, moments = _case((rows, 60, 70))
    expected_mean, expected_cov, weights = _expected(before, data, 0.3)
    rate = 0.3 * min(1, rows / DIM) / weights[0]
    mean, cov = before.mean[: BLOCKS[0]].clone(), before.cov[: BLOCKS[0]].clone()
    first = Moments(moments.count[0], moments.total[: BLOCKS[0]], moments.outer[: BLOCKS[0]])
    move_averages(mean, cov, first, rate, rows)
    np.testing.assert_allclose(mean, expected_mean[: BLOCKS[0]], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(cov, expected_cov[: BLOCKS[0]], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("spoilt", [np.nan, np.inf, 1e200])
@pytest.mark.parametrize("which", ["total", "outer"])
def test_the_squared_magnitude_tells_what_is_not_finite(which, spoilt):
    _, _, moments = _case((50, 60, 70))
    assert squared_magnitude(moments).isfinite()
    getattr(moments, which).view(-1)[1] = spoilt
    assert not squared_magnitude(moments).isfinite()
