"""Ends a run where a signal asked for it, with a checkpoint."""

from __future__ import annotations

import logging
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, find_latest_checkpoint

from ndpp_dense.distributed.stopping import EXIT_CODE, StoppedEarly, stop_asked
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
        device = next(runner.model.parameters()).device
        asked = torch.tensor(float(stop_asked()), device=device)
        all_reduce(asked)
        if asked.item() == 0 or runner.iter + 1 >= runner.max_iters:
            return
        if isinstance(runner.train_loop, IterBasedTrainLoop) and not save_is_due(runner, by_epoch=False):
            _save(runner)
        message = (
            f"stopped by a signal after iteration {runner.iter + 1} of {runner.max_iters}: "
            f"{find_latest_checkpoint(runner.work_dir) or 'no checkpoint'} is complete, --resume goes on from there. "
            f"Exit code {EXIT_CODE}."
        )
        print_log(message, logger="current", level=logging.WARNING)
        raise StoppedEarly(message)


def _save(runner: Any) -> None:
    for hook in runner.hooks:
        if isinstance(hook, NDPPStatsHook | NDPPResumeHook):
            hook.prepare_save(runner)
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook):
            hook._save_checkpoint(runner)
