"""The way that a device's tensors go, where nobody may look at values, gives what the way of a CPU's gives."""

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ndpp_dense import (
    NDConv2d,
    NDConvTranspose2d,
    NDLinear,
    WhiteningConfig,
    convert_to_ndpp,
    micro_batch_of_step,
    settle_stats,
)
from ndpp_dense.layers.statistics import exchange

CONFIGS = {
    "fast": WhiteningConfig(),
    "every": WhiteningConfig(schedule="every=2"),
    "stale": WhiteningConfig(schedule="stale"),
    "quintic": WhiteningConfig(solver="quintic", num_iters=5, local_scale="std"),
    "many iterations": WhiteningConfig(num_iters=6, local_scale="none"),
    "paper": WhiteningConfig.paper(),
    "paper, a D per block": WhiteningConfig.paper().override({"shared_blocks": False, "block_size_spatial": 4}),
    "batch, detached": WhiteningConfig(statistics="batch", num_iters=4),
}


class Unseen(TorchDispatchMode):
    """Changes nothing; but inside it nothing is decided by values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.fixture
def as_on_a_device(monkeypatch):
    """Lets ``stale`` put layers of one size together, too."""
    original = exchange._batches
    monkeypatch.setattr(exchange, "_batches", lambda shares, device: original(shares, torch.device("cuda")))
    monkeypatch.setattr(exchange, "_is_local", lambda share: False)
    monkeypatch.setattr(exchange.Exchange, "_singly", lambda self: False)
    return Unseen


def net(config, dtype=torch.float64):
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 24, 1, stride=2),
        nn.ReLU(),
        nn.Conv2d(24, 8, 3, padding=1, groups=2),
        nn.Conv2d(8, 8, 1),
        nn.ConvTranspose2d(8, 6, 4, 2, 1),
        nn.Flatten(),
        nn.Linear(6 * 144, 5),
    ]
    model = nn.Sequential(*layers)
    convert_to_ndpp(model, config)
    assert sum(isinstance(layer, NDConv2d | NDConvTranspose2d | NDLinear) for layer in model) == 6
    return model.to(dtype)


def inputs(dtype=torch.float64):
    """Steps: three of images, among which one is dark; one with a broken image; one without any."""
    generator = torch.Generator().manual_seed(1)
    found = [torch.randn(4, 3, 12, 12, generator=generator, dtype=dtype) + 0.3 for _ in range(6)]
    found[1][2] = 0
    found[3][1, 0, 4, 4] = float("inf")
    found[4] = found[4][:0]
    return found


def trained(model, batches, context=contextlib.nullcontext, amp=False):
    """Outputs, gradients and statistics of every step; those of broken images left out."""
    seen = []
    for x in batches:
        x = x.clone().requires_grad_()
        model.zero_grad()
        with context():
            with torch.autocast("cpu", torch.bfloat16, enabled=amp):
                y = model(x)
            (y.double().square().sum() / 10).backward()
        broken = not x.isfinite().all()
        gradients = [] if broken else [x.grad, *(p.grad for p in model.parameters())]
        settle_stats(model)
        seen.append([y.detach()[2:] if broken else y.detach(), *gradients, *(b.clone() for b in model.buffers())])
    return seen


def assert_alike(found, expected, tolerance):
    for step, (own, other) in enumerate(zip(found, expected, strict=True)):
        for number, (a, b) in enumerate(zip(own, other, strict=True)):
            assert a.dtype == b.dtype
            assert torch.isfinite(a).all()
            error, size = (a.double() - b.double()).norm(), b.double().norm()
            assert error <= tolerance * size + 1e-12, (step, number, error / size)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_values_gradients_and_statistics_are_the_same(config, as_on_a_device):
    model = net(config)
    expected = trained(copy.deepcopy(model), inputs())
    assert_alike(trained(model, inputs(), as_on_a_device), expected, 1e-9)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_under_autocast_they_are_the_same_to_its_rounding(config, as_on_a_device):
    # That polynomial magnifies what bfloat16 rounds away from nearly empty directions, on both ways.
    model = net(config.override({"eps": 0.5}) if config.solver == "quintic" else config, torch.float32)
    # Without the dark image, whose rounding is divided by next to nothing.
    batches = [x for x in inputs(torch.float32) if x.isfinite().all() and x.flatten(1).any(1).all()]
    expected = trained(copy.deepcopy(model), batches, amp=True)
    assert_alike(trained(model, batches, as_on_a_device, amp=True), expected, 0.05)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_micro_batches_are_the_same(config, as_on_a_device):
    model, found = net(config), []
    for own, context in ((copy.deepcopy(model), contextlib.nullcontext), (model, as_on_a_device)):
        for x in inputs()[:3]:
            for index, part in enumerate(x.chunk(2)):
                with context(), micro_batch_of_step(own, index, 2):
                    own(part).square().sum().backward()
        settle_stats(own)
        found.append([[p.grad for p in own.parameters()] + list(own.buffers())])
    assert_alike(found[1], found[0], 1e-9)
