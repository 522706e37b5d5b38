"""Compiled and plain models train alike, and do not recompile at every step."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ndpp_dense import NDConv2d, NDLinear, WhiteningConfig


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch.compile itself, after a graph break
@pytest.mark.parametrize(
    "config",
    [
        WhiteningConfig(),
        WhiteningConfig(schedule="every=2"),
        WhiteningConfig(schedule="stale"),
        WhiteningConfig(statistics="batch", grad="full", eps=1e-2),
    ],
    ids=["ema", "every second", "stale", "full"],
)
def test_compiled_training_is_plain_training(config):
    torch.manual_seed(0)
    layers = [NDConv2d(4, 8, 3, config=config), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    plain = nn.Sequential(*layers, NDLinear(8, 3, config=config))
    twin = copy.deepcopy(plain)
    compiled = torch.compile(twin, backend="aot_eager")
    torch._dynamo.utils.counters.clear()
    for step in range(6):
        x = torch.randn(16, 4, 9, 9)
        y, z = plain(x), compiled(x)
        torch.testing.assert_close(z, y)
        y.square().sum().backward()
        z.square().sum().backward()
        if step == max(config.period, 2):  # each step of a period has its graphs, and the first has its own
            graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    for p, q in zip(plain.parameters(), twin.parameters(), strict=True):
        assert (q.grad - p.grad).norm() < 1e-5 * p.grad.norm()  # entries of up to 36, and others near 0
    for p, q in zip(plain.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(q, p)


def test_evaluation_is_one_graph():
    model = nn.Sequential(NDConv2d(4, 8, 3), nn.ReLU(), NDConv2d(8, 4, 1), nn.Flatten(), NDLinear(196, 3))
    x = torch.randn(2, 4, 9, 9)
    model(x)
    compiled = torch.compile(model.eval(), backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize("statistics", ["ema", "batch"])
def test_training_is_one_graph(statistics):
    torch.manual_seed(0)
    config = WhiteningConfig(statistics=statistics, eps=0.1)
    plain = nn.Sequential(NDConv2d(4, 8, 3, config=config), nn.ReLU(), nn.Flatten(), NDLinear(392, 3, config=config))
    twin = copy.deepcopy(plain)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        x = torch.randn(16, 4, 9, 9)
        torch.testing.assert_close(compiled(x), plain(x))
    for p, q in zip(plain.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(q, p)


def test_compiled_layers_do_not_count_recomputation():
    torch.manual_seed(0)
    plain = NDConv2d(4, 8, 3)
    twin = copy.deepcopy(plain)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    x = torch.randn(16, 4, 9, 9, requires_grad=True)
    checkpoint(compiled, x, use_reentrant=True).square().sum().backward()
    plain(x)
    for p, q in zip(plain.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(q, p)
