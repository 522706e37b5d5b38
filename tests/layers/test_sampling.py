"""How many positions of a map become rows."""

import pytest
import torch

from ndpp_dense import NDConv2d, WhiteningConfig
from ndpp_dense.layers.sampling import denser_stride, enough_rows, sparser_stride


@pytest.mark.parametrize(
    ("stride", "size", "limit", "expected"),
    [
        (3, (56, 56), 128, 5),
        (3, (112, 112), 128, 10),
        (3, (30, 30), 100, 3),  # every third is 100 already
        (5, (200, 336), 128, 23),
        (1, (10, 10), 100, 1),
        (1, (11, 10), 100, 2),
        (3, (112, 112), 0, 3),
        (3, (0, 0), 100, 3),
    ],
)
def test_large_maps_are_sampled_sparsely(stride, size, limit, expected):
    assert sparser_stride(stride, size[0] * size[1], limit) == expected


def test_a_denser_sample_has_as_many_rows_as_are_missing():
    assert denser_stride(8, 1 / 4) == 4
    assert denser_stride(3, 1 / 100) == 1


@pytest.mark.parametrize(("share", "rows"), [(1.0, 40), (0.5, 20), (0.1, 10)])
def test_rows_of_a_step(share, rows):
    assert enough_rows(10, share) == rows


def _sampled(layer, x):
    """The data matrix that a training step takes."""
    seen = []
    inner = layer._data_matrix
    layer._data_matrix = lambda *args: seen.append(inner(*args)) or seen[-1]
    layer(x)
    return seen


@pytest.mark.parametrize("limit", [100, 0])
def test_a_map_gives_about_as_many_rows_as_the_limit_says(limit):
    layer = NDConv2d(4, 4, 3, padding=1, config=WhiteningConfig(block_size_spatial=2, sampling_limit=limit))
    (data,) = _sampled(layer, torch.randn(2, 4, 90, 60))
    positions = data.shape[-2] * data.shape[-1]
    assert positions == (30 * 20 if limit == 0 else 11 * 7)


def test_a_sparse_sample_does_not_show_the_border_more_often_than_it_is_there():
    layer = NDConv2d(1, 1, 3, padding=1, config=WhiteningConfig(sampling_limit=25, local_scale="none"))
    (data,) = _sampled(layer, torch.ones(1, 1, 50, 50))
    assert data.shape[-2:] == (5, 5)
    assert data.min() == 1


@pytest.mark.parametrize("size", [(2, 400), (400, 2), (3, 3)])
def test_maps_too_narrow_to_leave_out_the_border(size):
    layer = NDConv2d(2, 2, 3, padding=1, config=WhiteningConfig())
    assert torch.isfinite(layer(torch.randn(4, 2, *size))).all()
    assert layer.whitening.running_weight > 0


def test_what_is_sampled_of_an_image_does_not_depend_on_the_others():
    x = torch.randn(3, 4, 60, 60)
    whole = _sampled(NDConv2d(4, 4, 3, config=WhiteningConfig(block_size_spatial=1)), x)[0]
    alone = _sampled(NDConv2d(4, 4, 3, config=WhiteningConfig(block_size_spatial=1)), x[1:2])[0]
    torch.testing.assert_close(whole[1:2], alone)
