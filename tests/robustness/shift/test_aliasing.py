"""The limit of invariance: with circular borders answers repeat with the stride, exactly, and not in between."""

import numpy as np
import pytest
import torch

from ndpp_dense import WhiteningConfig, convert_to_ndpp, fold_ndpp
from ndpp_dense.backbones.vgg import PooledVGG16
from ndpp_dense.robustness.shift import circular_padding, shift_spectrum, translate


@pytest.mark.parametrize(("pool", "stride"), [(3, 8), (4, 16), (5, 32)])
def test_means_of_pools_repeat_with_their_stride(pool, stride):
    torch.manual_seed(0)
    model = PooledVGG16(0).eval()
    picture = torch.rand(1, 3, 64, 64)

    def response(shift):
        with torch.no_grad(), circular_padding(model) as layers:
            assert layers == 13
            return model.forward_features(translate(picture, shift, "circular"))[pool - 1].mean((2, 3))

    still, between = response((0, 0)), response((0, stride // 2))
    for shift in ((0, stride), (stride, 0), (-stride, stride)):
        assert (response(shift) - still).abs().max() <= 1e-6 * still.abs().max()
    assert (between - still).abs().max() > 1e-3 * still.abs().max()
    assert {layer.padding_mode for layer in model.features if hasattr(layer, "padding_mode")} == {"zeros"}


def test_nothing_else_moves_the_answer():
    """With every pool, the energy of the response lies on harmonics of 1/stride alone."""
    torch.manual_seed(1)
    model = PooledVGG16(0, divisor=8).eval()
    picture = torch.rand(1, 3, 32, 32)
    pixels = np.arange(-16, 16)
    with torch.no_grad(), circular_padding(model):
        moved = torch.cat([translate(picture, (0, int(s)), "circular") for s in pixels])
        pools = [pool.mean((2, 3)) for pool in model.forward_features(moved)]
    for pool, stride in zip(pools[1:4], (4, 8, 16), strict=True):
        found = shift_spectrum(pixels, pool.T.double().numpy(), stride)
        assert found.harmonic_share > 1 - 1e-6
        assert found.chance == (stride - 1) / 31
    with torch.no_grad():  # zeros at the border tell where the picture begins
        moved = model.forward_features(moved)[2].mean((2, 3))
    assert shift_spectrum(pixels, moved.T.double().numpy(), 8).harmonic_share < 1 - 1e-4


def test_nd_layers_are_padded_too():
    torch.manual_seed(0)
    model = PooledVGG16(0, divisor=8)
    convert_to_ndpp(model, WhiteningConfig())
    model.train()(torch.rand(4, 3, 32, 32))
    folded = fold_ndpp(model.eval())
    picture = torch.rand(1, 3, 64, 64)
    with torch.no_grad(), circular_padding(folded) as layers:
        assert layers == 13
        first, second = (folded.forward_features(translate(picture, (0, s), "circular"))[2] for s in (0, 8))
    assert torch.allclose(first.mean((2, 3)), second.mean((2, 3)), rtol=1e-5, atol=1e-6)


def test_spectrum_of_known_curves():
    pixels = np.arange(-50, 51)
    repeating = np.cos(2 * np.pi * pixels / 8) + 0.5 * np.cos(2 * np.pi * pixels / 4)
    found = shift_spectrum(pixels, 3 + repeating, 8)
    assert found.length == 96
    assert found.harmonic_share == pytest.approx(1)
    used = repeating[2:98]
    assert found.power[1:].sum() == pytest.approx(used.var())
    assert found.power[0] == pytest.approx((3 + used.mean()) ** 2)
    assert shift_spectrum(pixels, np.cos(2 * np.pi * pixels / 12), 8).harmonic_share == pytest.approx(0, abs=1e-12)
    mixed = repeating + np.cos(2 * np.pi * pixels / 48) * np.sqrt(1.25)
    assert shift_spectrum(pixels, mixed, 8).harmonic_share == pytest.approx(0.5, abs=1e-9)
    noise = np.random.default_rng(0).normal(size=(400, 101))
    assert shift_spectrum(pixels, noise, 8).harmonic_share == pytest.approx(found.chance, abs=0.01)
    assert np.isnan(shift_spectrum(pixels, np.full(101, 0.7), 8).harmonic_share)


@pytest.mark.parametrize(
    ("pixels", "values", "stride", "message"),
    [
        (np.arange(15), np.zeros(15), 8, "at stride 8 needs at least 16 shifts, .* there are 15 from 0 to 14"),
        (np.arange(0, 40, 2), np.zeros(20), 8, "one after the other"),
        (np.arange(16), np.full(16, np.nan), 8, "16 finite values"),
        (np.arange(16), np.zeros(17), 8, "16 finite values"),
        (np.arange(16), np.zeros(16), 1, "stride = 1: it must be at least 2"),
    ],
)
def test_curves_without_a_spectrum(pixels, values, stride, message):
    with pytest.raises(ValueError, match=message):
        shift_spectrum(pixels, values, stride)
