"""Ends a run where a signal asked for it, with a checkpoint."""

from __future__ import annotations

import logging
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, find_latest_checkpoint

from ndpp_dense.distributed.stopping import StoppedEarly, UntilStopped, stop_agreed, stop_vote
from ndpp_dense.integrations.mmengine.hooks import NDPPResumeHook, NDPPStatsHook, save_is_due

__all__ = ["NDPPStopHook"]


@HOOKS.register_module()
class NDPPStopHook(Hook):
    """Saves and stops on all ranks together when one of them got SIGTERM or SIGUSR1.

    Epoch-based loops can be resumed at the start of an epoch only: they stop without a new checkpoint.
    """

    priority = "LOWEST"  # after CheckpointHook

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Asks all ranks.

        Raises:
            StoppedEarly: Any of them was asked to stop.
        """
        if not _agreed(runner) or runner.iter + 1 >= runner.max_iters:
            return
        if isinstance(runner.train_loop, IterBasedTrainLoop) and not save_is_due(runner, by_epoch=False):
            _save(runner)
        _stop(runner, runner.iter + 1)

    def before_train(self, runner: Any) -> None:
        """Lets evaluations inside the training be left at any batch."""
        loop = runner.val_loop
        if loop is None:
            return
        evaluate = loop.evaluator.evaluate

        def agreed(size: int) -> dict[str, Any]:
            """Asks all ranks before their results are gathered."""
            if _agreed(runner):
                _leave_evaluation(runner)
            return evaluate(size)

        loop.dataloader, loop.evaluator.evaluate = UntilStopped(loop.dataloader), agreed


def _agreed(runner: Any) -> bool:
    votes = torch.tensor(stop_vote(), device=next(runner.model.parameters()).device)
    all_reduce(votes)
    return stop_agreed(votes.item())


def _leave_evaluation(runner: Any) -> None:
    """Saves as before the evaluation, where that was not done, and stops.

    Raises:
        StoppedEarly: Always.
    """
    loop = runner.train_loop
    if isinstance(loop, IterBasedTrainLoop):
        loop._iter -= 1  # hooks count the iteration that the evaluation follows as the current one
        if not save_is_due(runner, by_epoch=False):
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):  # which has exchanged the weights for the evaluation
                    hook._swap_ema_parameters()
                if isinstance(hook, NDPPResumeHook):
                    hook.after_val(runner)
            _save(runner)
        loop._iter += 1
    _stop(runner, runner.iter)


def _stop(runner: Any, done: int) -> None:
    stop = StoppedEarly(
        f"stopped by a signal after iteration {done} of {runner.max_iters}: "
        f"{find_latest_checkpoint(runner.work_dir) or 'no checkpoint'} is complete, --resume goes on from there."
    )
    print_log(str(stop), logger="current", level=logging.WARNING)
    raise stop


def _save(runner: Any) -> None:
    for hook in runner.hooks:
        if isinstance(hook, NDPPStatsHook | NDPPResumeHook):
            hook.prepare_save(runner)
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook):
            hook._save_checkpoint(runner)
