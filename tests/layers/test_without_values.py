"""Training steps read no value of the device: they run on tensors that have none."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ndpp_dense import WhiteningConfig, convert_to_ndpp, micro_batch_of_step, settle_stats

CONFIGS = {
    "fast": WhiteningConfig(),
    "every": WhiteningConfig(schedule="every=2"),
    "stale": WhiteningConfig(schedule="stale"),
    "paper": WhiteningConfig.paper(),
    "batch, detached": WhiteningConfig(statistics="batch", local_scale="std"),
    "eigh": WhiteningConfig(solver="eigh", local_scale="none"),
    "quintic": WhiteningConfig(solver="quintic", scale_steps=9),
}


def net(config):
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 24, 1, stride=2),
        nn.ConvTranspose2d(24, 4, 2, 2),
        nn.Flatten(),
        nn.Linear(4 * 144, 5),
    ]
    model = nn.Sequential(*layers)
    convert_to_ndpp(model, config)
    return model


def train(model, images, amp=False, steps=3):
    """Steps of two micro-batches and of a whole batch, each with a step of the optimizer."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=True)
    for step in range(steps):
        count = 2 if step % 2 else 1
        for index in range(count):
            with micro_batch_of_step(model, index, count), torch.autocast("cpu", torch.bfloat16, enabled=amp):
                loss = model(images).float().square().mean()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    settle_stats(model)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_on_meta(config):
    """The way of a device, from the first step on."""
    train(net(config).to("meta"), torch.empty(4, 3, 12, 12, device="meta"))


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_on_fake_tensors_once_the_first_steps_are_over(config, amp):
    """The first steps look whether there are statistics, and where in its period the schedule is."""
    model = net(config)
    train(model, torch.randn(4, 3, 12, 12))
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        tensors[name] = mode.from_tensor(tensor)
            if hasattr(module, "started"):
                module._started = module.running_weight
        for module in model.modules():
            if getattr(module, "turns", None) is not None:
                module.turns._left_of = module.turns.phase
        train(model, mode.from_tensor(torch.randn(4, 3, 12, 12)), amp)
    train(net(config), torch.randn(4, 3, 12, 12))  # nothing that was made of fakes has been kept
