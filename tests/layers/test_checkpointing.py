"""Activation checkpointing: one update a step, and the gradients of the run without it."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ndpp_dense import NDConv2d, WhiteningConfig

CONFIGS = {
    "full": WhiteningConfig(statistics="batch", grad="full", eps=1e-2),
    "shared": WhiteningConfig(statistics="batch", grad="full", eps=1e-2, shared_blocks=True, solver="quintic"),
    "detached": WhiteningConfig(statistics="batch", eps=1e-2),
    "ema": WhiteningConfig(),
}


def _net(config):
    torch.manual_seed(0)
    layers = [NDConv2d(4, 8, 3, padding=1, config=config), nn.ReLU(), NDConv2d(8, 4, 1, config=config)]
    return nn.Sequential(*layers).double()


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_equal_to_the_run_without(config, reentrant):
    plain, checkpointed = _net(config), _net(config)
    for step in range(3):
        x = torch.randn(6, 4, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
        y = plain(one)
        z = checkpoint(checkpointed, two, use_reentrant=reentrant)
        torch.testing.assert_close(z, y)
        after_forward = copy.deepcopy(checkpointed.state_dict())
        y.square().sum().backward()
        z.square().sum().backward()
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-7, atol=1e-9)
        for p, q in zip(plain.parameters(), checkpointed.parameters(), strict=True):
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-7, atol=1e-9)
        for name, value in checkpointed.state_dict().items():
            assert torch.equal(value, after_forward[name]), f"{name} was updated in backward"
            torch.testing.assert_close(value, plain.state_dict()[name])
