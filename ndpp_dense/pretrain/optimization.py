"""Optimizer and learning rate of a run, from timm."""

from __future__ import annotations

import torch
from timm.optim import create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage]
from timm.scheduler.scheduler import Scheduler
from timm.scheduler.scheduler_factory import create_scheduler_v2
from torch import nn

from ndpp_dense.pretrain.config import PretrainConfig

__all__ = ["build_optimizer", "build_schedule"]


def build_optimizer(config: PretrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of all parameters; without ``decay_all`` biases and norms do not decay."""
    return create_optimizer_v2(
        network,
        config.optimizer,
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        filter_bias_and_bn=not config.decay_all,
    )


def build_schedule(config: PretrainConfig, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> Scheduler:
    """The learning rate as a function of the optimizer steps done: call ``step_update(done)`` after each.

    It has no state, so a resumed run takes it from the number of steps, and may be longer than planned before.
    """
    schedule, _ = create_scheduler_v2(
        optimizer,
        config.schedule,
        num_epochs=config.epochs,
        decay_epochs=config.decay_epochs,
        decay_rate=config.decay_rate,
        min_lr=config.min_lr,
        warmup_epochs=config.warmup_epochs,
        warmup_lr=config.warmup_lr,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    assert schedule is not None  # only the schedule "none" is
    return schedule
