"""Nets and batches for the tests of the stale schedule."""

import torch
from torch import nn

from ndpp_dense import WhiteningConfig, convert_to_ndpp
from ndpp_dense.layers.statistics.steps import settle_stats
from ndpp_dense.training.evaluation_stats import EvaluationStats


def make_net(schedule="stale", **fields):
    torch.manual_seed(0)
    body = [nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, 2)]
    head = [nn.Tanh(), nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
    model = nn.Sequential(nn.Sequential(*body), nn.Sequential(*head))
    convert_to_ndpp(model, WhiteningConfig(schedule=schedule, **fields), {"*": True})
    return model.double()


def batch(step):
    return torch.randn(8, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(step)) + step


def descend(model):
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p -= 1e-3 * p.grad
                p.grad = None


def train(model, steps, between=lambda: None):
    """Losses of plain gradient descent; ``between`` is called between the steps."""
    losses = []
    for step in steps:
        loss = model(batch(step)).square().sum()
        loss.backward()
        descend(model)
        losses.append(loss.item())
        between()
    return losses


def assert_equal_buffers(model, other):
    settle_stats(model)
    settle_stats(other)
    expected = dict(other.named_buffers())
    assert expected
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, expected[name], msg=lambda m, name=name: f"{name}: {m}")


def lend(model):
    """What an evaluation on estimated statistics does between two steps."""
    stats = EvaluationStats(model, lambda seed: iter([batch(seed)]), 1)

    def between():
        stats.lend()
        model.eval()(batch(9))
        model.train()
        stats.take_back()

    return between
