"""Everything that changes while a run trains, and how it is saved and put back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from timm.utils.metrics import AverageMeter
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from ndpp_dense.pretrain.config import PretrainConfig
from ndpp_dense.pretrain.optimization import build_optimizer, build_schedule
from ndpp_dense.pretrain.processes import gather, rank, world_size
from ndpp_dense.pretrain.record import Record
from ndpp_dense.pretrain.step import OptimizerStep, run_network
from ndpp_dense.pretrain.stream import Batch
from ndpp_dense.training.evaluation_stats import EvaluationStats
from ndpp_dense.training.rng import get_rng_state, set_rng_state

__all__ = ["TrainingState"]

_log = logging.getLogger(__name__)


class TrainingState:
    """Weights, averaged weights, optimizer, schedule, statistics and records of a run.

    Args:
        config: Settings.
        network: The network, on its device.
        num_classes: Classes.
        steps_per_epoch: Optimizer steps of an epoch.
        stats_batches: Makes an iterator over training batches from a seed.
        device: Where the network is.

    Attributes:
        deployed: What is evaluated and used later: the averaged weights if there are any, else the network.
        stats: Lends ``deployed`` good statistics for evaluating and saving.
        record: What was measured.
        done: Optimizer steps made.
    """

    def __init__(
        self,
        config: PretrainConfig,
        network: nn.Module,
        num_classes: int,
        steps_per_epoch: int,
        stats_batches: Callable[[int], Iterator[Batch]],
        device: torch.device,
    ) -> None:
        self.config = config
        self.network = network
        self.steps_per_epoch = steps_per_epoch
        self.optimizer = build_optimizer(config, network)
        self.schedule = build_schedule(config, self.optimizer, steps_per_epoch)
        self.step = OptimizerStep(network, self.optimizer, config, num_classes, device)
        self.ema = ModelEmaV3(network, config.ema_decay, use_warmup=True) if config.ema_decay else None
        self.deployed: nn.Module = self.ema.module if self.ema else network
        self.stats = EvaluationStats(
            self.deployed,
            stats_batches,
            min(config.stats_batches, steps_per_epoch),  # a second epoch would show the same images
            lambda model, batch: run_network(model, batch[0], config),
        )
        self.record = Record()
        self.done = 0
        self._epoch_loss, self._logged_loss = AverageMeter(), AverageMeter()

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return self.optimizer.param_groups[0]["lr"]

    @property
    def epoch_loss(self) -> float:
        """Mean training loss of the current epoch."""
        return self._epoch_loss.avg

    @property
    def evaluation_is_owed(self) -> bool:
        """Whether the last step ended an epoch that was not recorded."""
        epoch, within = divmod(self.done, self.steps_per_epoch)
        return epoch > 0 and not within and len(self.record.epochs) < epoch

    def advance(self, loss: float) -> None:
        """Takes note of an optimizer step and moves schedule and averaged weights on."""
        lr = self.lr
        self.done += 1
        self.schedule.step_update(self.done)
        if self.ema is not None:
            self.ema.update(self.network, step=self.done)
        if (self.done - 1) % self.steps_per_epoch == 0:
            self._epoch_loss.reset()
        self._epoch_loss.update(loss)
        self._logged_loss.update(loss)
        if self.done % self.config.log_every == 0 or self.done % self.steps_per_epoch == 0:
            self.record.losses.append([self.done, self._logged_loss.avg, lr])
            self._logged_loss.reset()

    def take_settings(self, config: PretrainConfig) -> None:
        """Goes on with the learning rates of other settings, after :meth:`load_state_dict`."""
        self.schedule = build_schedule(config, self.optimizer, self.steps_per_epoch)
        self.schedule.step_update(self.done)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs; every rank must call it."""
        state = {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.step.scaler.state_dict(),
            "statistics": self.stats.state_dict(),
            "record": self.record.state_dict(),
            "meters": [[meter.sum, meter.count, meter.avg] for meter in (self._epoch_loss, self._logged_loss)],
            "done": self.done,
            "rng": gather(get_rng_state()),
        }
        return state if self.ema is None else {**state, "model_ema": self.ema.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts back what :meth:`state_dict` returned.

        Raises:
            KeyError: Something is missing.
            RuntimeError: Weights do not fit.
            ValueError: The optimizer's state does not fit.
        """
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["model_ema"])
        if self.step.scaler.is_enabled() and state["scaler"]:
            self.step.scaler.load_state_dict(state["scaler"])
        self.stats.load_state_dict(state["statistics"])
        self.record.load_state_dict(state["record"])
        for meter, values in zip((self._epoch_loss, self._logged_loss), state["meters"], strict=True):
            meter.sum, meter.count, meter.avg = values
        self.done = state["done"]
        self.schedule.step_update(self.done)
        if len(state["rng"]) == world_size():
            set_rng_state(state["rng"][rank()])
            return
        _log.warning(
            "The checkpoint was written by %d process(es) and is resumed by %d: training goes on at the same position, "
            "but the result is not bit-identical to an uninterrupted run.",
            len(state["rng"]),
            world_size(),
        )
