"""Hooks of the trainer beyond those that Detectron2 has."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.engine.hooks import BestCheckpointer, EvalHook
from detectron2.utils.events import EventStorage
from torch import nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ndpp_dense import nd_layers, synchronize_stats, update_stats
from ndpp_dense.integrations.detectron2.rng import isolated_rng

__all__ = ["BestHook", "FinishedEvalHook", "ProgressBar", "StatsHook"]

# Fixed, so that the batches from which statistics are estimated are the same in every run.
STATS_SEED = 2022


class FinishedEvalHook(EvalHook):
    """Evaluate periodically, and at the end only if training came to its end.

    Detectron2's hook would also start an evaluation, with its collectives, after the last iteration has failed.
    """

    def after_train(self) -> None:
        """Evaluate after the last iteration."""
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()


class BestHook(BestCheckpointer):
    """Keep the model with the best value of a metric, across interruptions too."""

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far and its iteration."""
        return {"best_metric": self.best_metric, "best_iter": self.best_iter}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned."""
        self.best_metric, self.best_iter = state["best_metric"], state["best_iter"]


class StatsHook(HookBase):
    """Give the ND++ layers good statistics whenever the model is evaluated or saved.

    Where statistics follow single batches (``statistics="batch"``), their running averages lag behind the weights: they
    are estimated anew from training batches of a loader with a fixed seed. Then they are made equal on all ranks. The
    hook must stand before the hooks that evaluate and save.

    Evaluating and saving must not change the training, so the run's own statistics come back before the next step.
    Checkpoints hold both: ready-to-use statistics in the model, the run's own ones in this hook's state, for resuming.

    Args:
        model: the model without DistributedDataParallel.
        batches: makes an iterator over training batches from a seed.
        periods: evaluation and saving periods, in iterations; 0 for none.
        num_batches: training batches to estimate from.
    """

    def __init__(
        self, model: nn.Module, batches: Callable[[int], Iterator], periods: tuple[int, ...], num_batches: int
    ) -> None:
        self._model = model
        self._batches = batches
        self._periods = [period for period in periods if period > 0]
        self._num_batches = num_batches
        self._own: dict[str, torch.Tensor] = {}

    def after_step(self) -> None:
        """Prepare the statistics if this iteration is followed by an evaluation or a save."""
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or any(done % period == 0 for period in self._periods):
            self._prepare()

    def before_step(self) -> None:
        """Put the run's own statistics back."""
        self._load(self._own)
        self._own = {}

    def after_train(self) -> None:
        """Prepare the statistics of a run that was resumed after its last iteration."""
        if self.trainer.iter >= self.trainer.max_iter and not self._own:
            self._prepare()

    def state_dict(self) -> dict[str, Any]:
        """Return the run's own statistics where the model holds others at the moment."""
        return {"own": dict(self._own)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the run's own statistics into the model."""
        self._load(state["own"])

    def _prepare(self) -> None:
        self._own = {name: buffer.clone() for name, buffer in self._buffers()}
        if any(layer.config.statistics == "batch" for _, layer in nd_layers(self._model)):
            # Detectron2's training forward draws random numbers and writes to the storage: both must leave no trace.
            with isolated_rng(STATS_SEED, cuda=True), EventStorage(self.trainer.iter):
                update_stats(self._model, self._batches(STATS_SEED), self._num_batches)
        synchronize_stats(self._model)

    def _buffers(self) -> Iterator[tuple[str, torch.Tensor]]:
        for prefix, layer in nd_layers(self._model):
            yield from layer.named_buffers(prefix)

    def _load(self, saved: dict[str, torch.Tensor]) -> None:
        if saved:
            for name, buffer in self._buffers():
                buffer.copy_(saved[name])


class ProgressBar(HookBase):
    """A bar on the terminal with remaining time, loss and the latest AP.

    Args:
        metric: name of the evaluated metric to show, such as ``segm/AP``.
        refresh: iterations between two updates of the figures.
    """

    def __init__(self, metric: str, refresh: int = 5) -> None:
        self._metric = metric
        self._refresh = refresh
        self._stack = ExitStack()
        self._bar: tqdm | None = None

    def before_train(self) -> None:
        """Draw the bar and let log lines pass above it."""
        # The loggers that have their own handlers on the terminal.
        names = ("detectron2", "fvcore", "ndpp_dense")
        self._stack.enter_context(logging_redirect_tqdm([logging.getLogger(name) for name in names]))
        trainer = self.trainer
        bar = tqdm(total=trainer.max_iter, initial=trainer.start_iter, unit="it", file=sys.stderr, dynamic_ncols=True)
        self._bar = self._stack.enter_context(bar)

    def after_step(self) -> None:
        """Move on by one iteration."""
        if self._bar is None:
            return
        if self.trainer.iter % self._refresh == 0:
            self._bar.set_postfix(self._figures(), refresh=False)
        self._bar.update()

    def after_train(self) -> None:
        """Leave the bar on the terminal with the final figures."""
        if self._bar is not None:
            self._bar.set_postfix(self._figures())
        self._stack.close()

    def _figures(self) -> dict[str, str]:
        latest = self.trainer.storage.latest()
        shown = {"loss": latest.get("total_loss"), self._metric: latest.get(self._metric)}
        return {name: f"{value[0]:.3f}" for name, value in shown.items() if value and not math.isnan(value[0])}
