"""Hooks of the trainer beyond those that Detectron2 has."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from detectron2.engine import HookBase
from detectron2.engine.hooks import BestCheckpointer, EvalHook
from detectron2.utils.events import EventStorage
from torch import nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ndpp_dense.distributed.stopping import EvaluationStopped, StoppedEarly
from ndpp_dense.integrations.detectron2.checkpoint import NDCheckpointer
from ndpp_dense.training.evaluation_stats import EvaluationStats

__all__ = ["BestHook", "FinishedEvalHook", "ProgressBar", "StatsHook", "StopHook"]


class FinishedEvalHook(EvalHook):
    """Evaluate periodically, and at the end only if training came to its end.

    Detectron2's hook would also start an evaluation, with its collectives, after the last iteration has failed. An
    evaluation that a signal broke off is made up for when the run goes on.

    Args:
        period: iterations between evaluations; 0 for none but the last.
        evaluate: returns results by task.
        stats: gives the model the statistics to evaluate with.
        best: keeps the best model; None on ranks that do not save.
    """

    def __init__(
        self, period: int, evaluate: Callable[[], dict[str, Any]], stats: StatsHook, best: BestHook | None
    ) -> None:
        super().__init__(period, evaluate)
        self._stats, self._best = stats, best
        self._owed = False

    def before_train(self) -> None:
        """Evaluate what a signal had broken off, as of the iteration before."""
        if not self._owed or self.trainer.iter >= self.trainer.max_iter:
            return
        trainer, storage = self.trainer, self.trainer.storage
        trainer.iter = storage.iter = trainer.iter - 1
        self._stats.lend()
        self._owed = False
        self.after_step()
        if not self._owed and self._best is not None:
            self._best.after_step()
        trainer.iter = storage.iter = trainer.iter + 1
        if self._owed:
            raise StoppedEarly("the evaluation was stopped by a signal again: --resume starts it once more.")

    def after_step(self) -> None:
        """Evaluate if it is time; left early, the hooks behind this one save and end the run."""
        try:
            super().after_step()
        except EvaluationStopped:
            self._owed = self.trainer.stop_agreed = True  # pyright: ignore[reportAttributeAccessIssue]

    def after_train(self) -> None:
        """Evaluate after the last iteration; left early, the trainer says so once the other hooks are done."""
        if self.trainer.iter < self.trainer.max_iter:
            return
        try:
            super().after_train()
        except EvaluationStopped:
            self.trainer.last_evaluation_stopped = True  # pyright: ignore[reportAttributeAccessIssue]

    def state_dict(self) -> dict[str, Any]:
        """Return whether an evaluation is owed."""
        return {"owed": self._owed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned."""
        self._owed = state["owed"]


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

    The hook must stand before the hooks that evaluate and save. Evaluating and saving must not change the training, so
    the run's own statistics come back before the next step. Checkpoints hold both: ready-to-use statistics in the
    model, the run's own ones in this hook's state, for resuming.

    Args:
        model: the model without DistributedDataParallel.
        batches: makes an iterator over training batches from a seed.
        periods: evaluation and saving periods, in iterations; 0 for none.
        num_batches: training batches to estimate from.
    """

    def __init__(
        self, model: nn.Module, batches: Callable[[int], Iterator], periods: tuple[int, ...], num_batches: int
    ) -> None:
        self._stats = EvaluationStats(model, batches, num_batches)
        self._periods = [period for period in periods if period > 0]

    def after_step(self) -> None:
        """Prepare the statistics if this iteration is followed by an evaluation or a save."""
        done = self.trainer.iter + 1
        stop = getattr(self.trainer, "stop_agreed", False)
        if stop or done == self.trainer.max_iter or any(done % period == 0 for period in self._periods):
            self.lend()

    def before_step(self) -> None:
        """Put the run's own statistics back."""
        self._stats.take_back()

    def after_train(self) -> None:
        """Prepare the statistics of a run that was resumed after its last iteration."""
        if self.trainer.iter >= self.trainer.max_iter:
            self.lend()

    def state_dict(self) -> dict[str, Any]:
        """Return the run's own statistics where the model holds others at the moment."""
        return self._stats.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the run's own statistics into the model."""
        self._stats.load_state_dict(state)

    def lend(self) -> None:
        """Put statistics to evaluate with into the model. All ranks must call it."""
        with EventStorage(self.trainer.iter):  # Detectron2's training forward writes to the storage: leave no trace
            self._stats.lend()


class StopHook(HookBase):
    """End the run where a signal asked for it, with a checkpoint from which ``--resume`` goes on exactly.

    The hook must stand behind all others.

    Args:
        checkpointer: saves, on all ranks together.
        save_period: iterations between periodic checkpoints, which need not be saved twice.
    """

    def __init__(self, checkpointer: NDCheckpointer, save_period: int) -> None:
        self._checkpointer = checkpointer
        self._period = save_period

    def after_step(self) -> None:
        """Save and stop.

        Raises:
            StoppedEarly: a signal asked for it, on any rank.
        """
        done = self.trainer.iter + 1
        if not self.trainer.stop_agreed or done == self.trainer.max_iter:  # pyright: ignore[reportAttributeAccessIssue]
            return
        if self._period <= 0 or done % self._period:
            self._checkpointer.save(f"model_{self.trainer.iter:07d}", iteration=self.trainer.iter)
        stop = StoppedEarly(
            f"stopped by a signal after iteration {done} of {self.trainer.max_iter}: "
            f"{self._checkpointer.get_checkpoint_file()} is complete, --resume goes on from there."
        )
        logging.getLogger(__name__).warning("%s", stop)
        self.trainer.iter = done  # as at the end of a run: writers have written this iteration already
        raise stop


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
