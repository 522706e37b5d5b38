"""Condition numbers, variance kept and lag against what is known of a matrix."""

import numpy as np
import pytest
import torch
from torch import nn

from ndpp_dense import WhiteningConfig, convert_to_ndpp
from ndpp_dense.reports.spectra import conditions_picture, layer_spectra


def state_of(variances, d=None, blocks=1, weight=1.0):
    """Weights of a layer whose inputs have these variances, in directions that are not the axes'."""
    values = torch.tensor(variances, dtype=torch.float64)
    turn, _ = torch.linalg.qr(
        torch.randn(len(values), len(values), generator=torch.Generator().manual_seed(0)).double()
    )
    cov = turn @ values.diag() @ turn.T
    whitening = turn @ values.rsqrt().diag() @ turn.T if d is None else d
    return {
        "a.weight": torch.ones(4, len(values)),
        "a.whitening.running_cov": cov.float().repeat(blocks, 1, 1),
        "a.whitening.running_whitening": whitening.float().repeat(blocks, 1, 1),
        "a.whitening.running_weight": torch.tensor(weight),
    }


def test_a_white_layer_and_one_that_is_left_as_it_is():
    (white,) = layer_spectra(state_of([100.0, 10.0, 1.0]))
    assert white.condition_before == pytest.approx(100, rel=1e-4)
    assert white.condition_after == pytest.approx(1, rel=1e-3)
    assert (white.largest_before, white.largest_after) == (pytest.approx(100 / 111), pytest.approx(1 / 3, rel=1e-3))
    assert white.kept == pytest.approx(1, rel=1e-4)
    assert white.before == pytest.approx([300 / 111, 30 / 111, 3 / 111], rel=1e-4)
    assert white.faults == ""
    (plain,) = layer_spectra(state_of([100.0, 10.0, 1.0], torch.eye(3)))
    assert plain.condition_after == pytest.approx(plain.condition_before, rel=1e-4)


def test_a_matrix_that_was_solved_from_another_covariance_lags():
    other = state_of([1.0, 10.0, 100.0])["a.whitening.running_whitening"][0].double()
    (lagging,) = layer_spectra(
        state_of([100.0, 10.0, 1.0], torch.tensor([[1.0, 0.5, 0], [0.5, 2, 0], [0, 0, 3]]).double())
    )
    assert lagging.lag > 0.1
    assert "D lags behind the covariance by" in lagging.faults
    (same,) = layer_spectra(state_of([100.0, 10.0, 1.0], other))  # a function of the same directions
    assert same.lag < 1e-5


@pytest.mark.parametrize(("weight", "fault"), [(0.0, "never taken"), (0.5, "of few steps (weight 0.5)"), (1.0, "")])
def test_statistics_that_were_hardly_taken_are_named(weight, fault):
    (layer,) = layer_spectra(state_of([2.0, 1.0], weight=weight))
    assert layer.faults.startswith(fault)
    assert bool(layer.faults) == bool(fault)


def test_degenerate_layers_give_finite_numbers():
    for variances in ([1.0, 0.0], [0.0, 0.0], [1e30, 1e-30]):
        (layer,) = layer_spectra(state_of(variances, torch.eye(2)))
        figures = (layer.condition_before, layer.condition_after, layer.largest_before, layer.kept, layer.lag)
        assert np.isfinite(figures).all()
        assert np.isfinite(layer.before).all()


def test_blocks_are_sampled_where_time_counts():
    (layer,) = layer_spectra(state_of([4.0, 1.0], blocks=9), most_blocks=4)
    assert (layer.blocks, layer.columns) == (9, 2)
    assert layer.condition_before == pytest.approx(4, rel=1e-4)


def test_the_layers_of_a_model_are_drawn_and_left_as_they_are():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    assert conditions_picture(model) is None
    convert_to_ndpp(model, WhiteningConfig.fast("imagenet"))
    model(torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    picture = conditions_picture(model)
    assert picture.shape[2] == 3
    assert picture.dtype == np.uint8
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
