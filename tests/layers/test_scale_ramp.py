"""Local scale that comes in by steps, against its definition."""

import copy

import pytest
import torch
from torch import nn

from ndpp_dense import (
    NDConv2d,
    NDConvTranspose2d,
    NDLinear,
    WhiteningConfig,
    calibrate_ndpp,
    fold_ndpp,
    nd_layers,
    ramp_local_scale,
)
from ndpp_dense.layers.folded import fold_layer

SMALL = {"block_size": 4, "block_size_spatial": 2, "block_size_linear": 4, "sampling_stride": 1, "scale_steps": 10}
CONFIG = WhiteningConfig(**SMALL)
LAYERS = {
    "conv": (lambda: NDConv2d(4, 6, 3, padding=1, config=CONFIG), (5, 4, 8, 8)),
    "pointwise": (lambda: NDConv2d(4, 6, 1, config=CONFIG), (5, 4, 8, 8)),
    "transposed": (lambda: NDConvTranspose2d(4, 6, 2, 2, config=CONFIG), (5, 4, 8, 8)),
    "linear": (lambda: NDLinear(4, 6, config=CONFIG), (5, 4)),
}


def unequal(*shape, seed=0):
    """Samples whose magnitudes differ a lot."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return x * torch.tensor([0.01, 0.3, 1.0, 5.0, 40.0]).view(-1, *[1] * (len(shape) - 1))


def seeded(make):
    """A layer with the same weights at every call."""
    torch.manual_seed(0)
    return make()


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("step", [0, 3, 10])
def test_the_factor_is_that_of_the_definition(kind, step):
    make, shape = LAYERS[kind]
    layer = seeded(make).eval()
    layer.scale_ramp.refer_to(torch.tensor(0.7))
    with torch.no_grad():
        layer.bias.zero_()
    ramp_local_scale(nn.Sequential(layer), step)
    x, share = unequal(*shape), step / 10
    plain = copy.deepcopy(layer)
    plain.config, plain.scale_ramp = WhiteningConfig(**{**SMALL, "local_scale": "none", "scale_steps": 0}), None
    magnitude = x.abs().flatten(1).mean(1).view(-1, *[1] * (x.dim() - 1))
    expected = plain(x) * 0.7 ** (share - 1) / magnitude**share
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    folded = fold_layer(layer)
    torch.testing.assert_close(folded(x), layer(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.jit.script(folded)(x), layer(x), rtol=1e-4, atol=1e-4)


def test_at_the_end_it_is_l1_with_its_gradient():
    x = unequal(5, 4, 8, 8)
    layer = seeded(LAYERS["conv"][0])
    other = copy.deepcopy(layer)
    other.scale_ramp, other.config = None, WhiteningConfig(**{**SMALL, "scale_steps": 0})
    ramp_local_scale(layer, 25)
    assert layer.scale_ramp.complete
    results = []
    for one in (layer, other):
        own = x.clone().requires_grad_()
        y = one(own)
        y.square().sum().backward()
        results.append((y, own.grad, one.weight.grad))
    for got, expected in zip(*results, strict=True):
        assert torch.equal(got, expected)


def test_gradients_on_the_way_are_those_of_differences():
    torch.manual_seed(0)
    layer = NDConv2d(2, 3, 3, padding=1, config=WhiteningConfig(**{**SMALL, "block_size_spatial": 1})).double().eval()
    ramp_local_scale(layer, 4)
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_state_survives_saving_and_copying():
    layer = seeded(LAYERS["conv"][0])
    layer.scale_ramp.refer_to(torch.tensor(3.0))
    ramp_local_scale(layer, 10)
    again = seeded(LAYERS["conv"][0])
    again.load_state_dict(layer.state_dict())
    assert again.scale_ramp.complete
    assert float(again.scale_ramp.reference) == 3
    ramp_local_scale(layer, 5)
    again.load_state_dict(layer.state_dict())
    assert not again.scale_ramp.complete
    assert not any("scale_ramp" in name for name in NDConv2d(4, 6, 3, config=WhiteningConfig()).state_dict())


def test_a_calibrated_model_starts_as_the_original_and_ends_as_l1():
    torch.manual_seed(0)
    original = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    data = [unequal(5, 3, 16, 16, seed=seed) for seed in range(4)]
    with torch.no_grad():
        for x in data:
            original(x)
    original.eval()
    ramped, at_once = copy.deepcopy(original), copy.deepcopy(original)
    calibrate_ndpp(ramped, data, CONFIG)
    calibrate_ndpp(at_once, data, WhiteningConfig(**{**SMALL, "scale_steps": 0}))
    x = unequal(5, 3, 16, 16, seed=9)
    with torch.no_grad():
        expected = original(x)
        torch.testing.assert_close(ramped.eval()(x), expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(fold_ndpp(ramped)(x), expected, rtol=1e-3, atol=1e-4)
        jump = (at_once.eval()(x) - expected).norm() / expected.norm()
        assert jump > 0.1  # which is what the ramp is for
        ramp_local_scale(ramped, 10)
        dim, bright = ramped(x), ramped(7 * x)
    torch.testing.assert_close(dim, bright, rtol=1e-3, atol=1e-4)  # contrast is forgotten
    assert all(layer.scale_ramp is not None for _, layer in nd_layers(ramped))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale_steps": -1}, "scale_steps = -1"),
        ({"scale_steps": 2.5}, "scale_steps = 2.5"),
        ({"scale_steps": True}, "scale_steps = True"),
        ({"scale_steps": 5, "local_scale": "std"}, "only 'l1' can come in by steps"),
    ],
)
def test_what_cannot_be(fields, message):
    with pytest.raises(ValueError, match=message):
        WhiteningConfig(**fields)
