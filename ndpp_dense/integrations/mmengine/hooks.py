"""Hooks that give ND++ layers good statistics for evaluation and make resuming exact."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import Any

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import nn
from torch.utils.data import DataLoader

from ndpp_dense.layers.scale_ramp import ramp_local_scale
from ndpp_dense.layers.statistics.steps import micro_batch_of_step, settle_stats
from ndpp_dense.training.evaluation_stats import EvaluationStats
from ndpp_dense.training.prepare import NORM_RULES, fit_momentum, norm_decisions
from ndpp_dense.training.rng import get_rng_state, set_rng_state
from ndpp_dense.training.settings import changed_settings, flat_settings, held_settings

__all__ = ["NDPPResumeHook", "NDPPStatsHook", "plain_model", "save_is_due"]
STATISTICS_KEY = "ndpp_own_statistics"
RANDOM_KEY = "ndpp_random_states"
SETTINGS_KEY = "ndpp_settings"
# Part of the optimizer's, the schedulers' and the data's state in a checkpoint, which a resumed run goes on with.
_HELD = ("optim_wrapper.optimizer.*", "optim_wrapper.paramwise_cfg*", "param_scheduler*", "randomness.seed")
# What does not decide what is trained.
_UNIMPORTANT = (
    *("work_dir", "load_from", "resume", "launcher", "experiment_name", "env_cfg*", "log_*", "vis*", "custom_imports*"),
    *("default_hooks*", "custom_hooks*", "val_*", "test_*", "*.val_interval", "default_scope", "model_wrapper_cfg*"),
    *("*dataloader.num_workers", "*dataloader.persistent_workers", "*dataloader.timeout", "*dataloader.pin_memory"),
    "model.backbone.init_cfg*",
)


def plain_model(runner: Any) -> nn.Module:
    """The runner's model without DistributedDataParallel."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def save_is_due(runner: Any, by_epoch: bool) -> bool:
    """Whether a CheckpointHook is about to save after this iteration (``by_epoch``: this epoch). Same on all ranks."""
    for hook in runner.hooks:
        if not isinstance(hook, CheckpointHook) or hook.by_epoch != by_epoch:
            continue
        every = hook.every_n_epochs if by_epoch else hook.every_n_train_iters
        last = hook.is_last_train_epoch if by_epoch else hook.is_last_train_iter
        if every(runner, hook.interval, hook.save_begin) or (hook.save_last and last(runner)):
            return True
    return False


@HOOKS.register_module()
class NDPPStatsHook(Hook):
    """Gives the ND++ layers good statistics whenever the model is evaluated or saved, without a trace in the training.

    See :class:`ndpp_dense.training.evaluation_stats.EvaluationStats`. Checkpoints hold ready-to-use statistics in the
    model and the run's own ones beside it, for resuming. With an EMAHook, statistics are estimated on the averaged
    weights. In accumulated steps running statistics move as :func:`ndpp_dense.micro_batch_of_step` says. A model whose
    ``ndpp`` settings name no momentum gets that of the run's batch, over all processes and accumulated iterations.

    Args:
        num_batches: Training batches to estimate from, >= 1.
    """

    priority = "LOW"  # after the hooks that exchange weights (EMAHook), before CheckpointHook

    def __init__(self, num_batches: int = 20) -> None:
        self._num_batches = num_batches
        self._micro_batch = ExitStack()
        self._stats: EvaluationStats | None = None
        self._resumed: dict[str, torch.Tensor] = {}

    def before_train(self, runner: Any) -> None:
        """Fits the momentum to the batch, and takes up the statistics of the run that is resumed.

        Raises:
            ValueError: The model was to be calibrated, and MMEngine's own runner does not.
        """
        _refuse_other_runner(runner)
        _fit_momentum(runner)
        self._stats = EvaluationStats(
            plain_model(runner), lambda seed: _batches(runner, seed), self._num_batches, _loss
        )
        self._stats.load_state_dict({"own": self._resumed})
        self._resumed = {}

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Puts the run's own statistics back, and says which micro-batch of an accumulated step comes."""
        if self._stats is not None:
            self._stats.take_back()
        counts = getattr(runner.optim_wrapper, "_accumulative_counts", 1)
        ramp_local_scale(plain_model(runner), runner.iter // counts)
        self._micro_batch.enter_context(
            micro_batch_of_step(plain_model(runner), *_micro_batch_of(runner.optim_wrapper))
        )

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Prepares the statistics if a save follows."""
        self._micro_batch.close()
        settle_stats(plain_model(runner))  # before an EMAHook exchanges the buffers that are meant
        if save_is_due(runner, by_epoch=False):
            self.prepare_save(runner)

    def after_train_epoch(self, runner: Any) -> None:
        """Prepares the statistics if a save follows."""
        if save_is_due(runner, by_epoch=True):
            self.prepare_save(runner)

    def before_val_epoch(self, runner: Any) -> None:
        """Prepares the statistics; an EMAHook has put the averaged weights into the model by now."""
        if self._stats is not None:
            self._stats.lend()

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Puts the ready-to-use statistics into the saved model and the run's own ones beside it."""
        decisions = norm_decisions(plain_model(runner))
        if decisions is not None:
            checkpoint[NORM_RULES] = decisions
        if self._stats is None or not self._stats.lent:
            return
        checkpoint[STATISTICS_KEY] = {name: value.cpu() for name, value in self._stats.state_dict()["own"].items()}
        model = plain_model(runner).state_dict()
        for name in checkpoint[STATISTICS_KEY]:  # an EMAHook has exchanged the buffers too
            checkpoint["state_dict"][name] = model[name].cpu()

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Keeps the run's own statistics for when training goes on."""
        if getattr(runner, "_resume", False):
            self._resumed = checkpoint.get(STATISTICS_KEY, {})
            if self._stats is not None:
                self._stats.load_state_dict({"own": self._resumed})

    def prepare_save(self, runner: Any) -> None:
        """Prepares the statistics for a save. All ranks must call it."""
        if self._stats is not None and not self._stats.lent:
            with _averaged_weights(runner):
                self._stats.lend()


@HOOKS.register_module()
class NDPPResumeHook(Hook):
    """Makes a resumed run equal to one that was left alone: MMEngine saves no random states.

    States are taken from every rank when a checkpoint is due and put back once MMEngine has gone through the batches
    that were trained on already. Evaluating leaves the states untouched. Needs a fixed ``randomness.seed``: without
    one, MMEngine shuffles the data anew before it reads the seed from the checkpoint.
    """

    priority = "LOW"

    def __init__(self) -> None:
        self._states: list[dict[str, Any]] = []
        self._resumed: list[dict[str, Any]] = []
        self._before_val: dict[str, Any] | None = None
        self._settings: dict[str, str] = {}

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Gathers the states if a save follows."""
        if save_is_due(runner, by_epoch=False):
            self.prepare_save(runner)

    def after_train_epoch(self, runner: Any) -> None:
        """Gathers the states if a save follows."""
        if save_is_due(runner, by_epoch=True):
            self.prepare_save(runner)

    def prepare_save(self, runner: Any) -> None:
        """Gathers the states. All ranks must call it."""
        self._states = all_gather_object(get_rng_state())

    def before_val(self, runner: Any) -> None:
        """Remembers the states."""
        self._before_val = get_rng_state()

    def after_val(self, runner: Any) -> None:
        """Puts them back."""
        if self._before_val is not None:
            set_rng_state(self._before_val)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Adds the states of all ranks."""
        checkpoint[RANDOM_KEY] = deepcopy(self._states)
        checkpoint[SETTINGS_KEY] = self._settings or flat_settings(runner.cfg.to_dict(), _UNIMPORTANT)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Keeps the states for when training goes on, and says which settings are others.

        Raises:
            ValueError: The optimizer is another.
        """
        if getattr(runner, "_resume", False) and SETTINGS_KEY in checkpoint:
            now, before = flat_settings(runner.cfg.to_dict(), _UNIMPORTANT), checkpoint[SETTINGS_KEY]
            kinds = [settings.get("optim_wrapper.optimizer.type") for settings in (now, before)]
            if kinds[0] != kinds[1]:
                raise ValueError(
                    f"the checkpoint holds the state of an optimizer {kinds[1]}, and this run has {kinds[0]}: resume "
                    "with that one, or start from the weights with --weights in another --work-dir."
                )
            for line in changed_settings(now, before, _HELD):
                print_log(line, logger="current", level=logging.WARNING)
            self._settings = held_settings(now, before, _HELD)
        self._resumed = checkpoint.get(RANDOM_KEY, []) if getattr(runner, "_resume", False) else []
        if self._resumed and len(self._resumed) != get_world_size():
            print_log(
                f"The checkpoint is of {len(self._resumed)} processes, this run has {get_world_size()}: it goes on "
                "with other random numbers.",
                logger="current",
            )
            self._resumed = []

    def before_train_epoch(self, runner: Any) -> None:
        """Puts the states back, now or after the batches that are skipped."""
        if not self._resumed:
            return
        state, self._resumed = self._resumed[runner.rank], []
        loop = runner.train_loop
        if hasattr(loop, "dataloader_iterator"):  # iteration-based: it skips batches only after this hook
            skipped = 0 if getattr(loop, "fast_forward_on_resume", False) else runner.iter  # the fork can leave it
            loop.dataloader_iterator = _Skipped(loop.dataloader_iterator, skipped, state)
        else:
            set_rng_state(_on_cpu(state))


class _Skipped:
    """An iterator that sets the random states when so many batches have been taken."""

    def __init__(self, batches: Iterator[Any], count: int, state: dict[str, Any]) -> None:
        self._batches = batches
        self._left = count
        self._state = state

    def __iter__(self) -> _Skipped:
        return self

    def __next__(self) -> Any:
        if self._left == 0:
            set_rng_state(_on_cpu(self._state))
        self._left -= 1
        return next(self._batches)

    def skip_iter(self, count: int) -> None:
        """As MMEngine's maintained fork asks: by loading, since skipped samples draw random numbers in the loaders."""
        for _ in range(count):
            next(self)


def _on_cpu(value: Any) -> Any:
    """Random states as tensors on the CPU: MMEngine loads checkpoints to the GPU."""
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {name: _on_cpu(item) for name, item in value.items()}
    return type(value)(_on_cpu(item) for item in value) if isinstance(value, list | tuple) else value


def _refuse_other_runner(runner: Any) -> None:
    model = plain_model(runner)
    asked = getattr(getattr(model, "ndpp_options", None), "calibrate", False)
    if asked and norm_decisions(model) is None:
        raise ValueError(
            "model.ndpp.calibrate is set, and this runner trains from what it is given: train with ndpp train-seg, set "
            "runner_type='NDPPRunner' in the config, or leave it out."
        )


def _fit_momentum(runner: Any) -> None:
    options = getattr(plain_model(runner), "ndpp_options", None)
    if options is None or not options.fits_momentum:
        return
    batch = runner.train_dataloader.batch_sampler.batch_size * get_world_size()
    batch *= getattr(runner.optim_wrapper, "_accumulative_counts", 1)
    momentum = fit_momentum(plain_model(runner), batch)
    print_log(f"ND++ statistics: momentum {momentum:.4g}, for {batch} images a step", logger="current")


def _micro_batch_of(optimizer: Any) -> tuple[int, int]:
    """Which forward pass of a step comes, and how many the step has; the last step of a run may have fewer."""
    counts, done = getattr(optimizer, "_accumulative_counts", 1), getattr(optimizer, "_inner_count", 0)
    index, end = done % counts, getattr(optimizer, "_max_counts", -1)
    return index, min(counts, end - done + index) if end > done else counts


def _batches(runner: Any, seed: int) -> Iterator[Any]:
    """Training batches of a loader of their own, so that the run's loader does not move on."""
    loader = runner.train_dataloader
    sampler = InfiniteSampler(loader.dataset, shuffle=True, seed=seed)
    size = loader.batch_sampler.batch_size
    return iter(DataLoader(loader.dataset, batch_size=size, sampler=sampler, collate_fn=loader.collate_fn))


def _loss(model: nn.Module, batch: Any) -> None:
    data = model.data_preprocessor(batch, True)  # type: ignore[operator]
    model._run_forward(data, mode="loss")  # type: ignore[operator]


@contextmanager
def _averaged_weights(runner: Any) -> Iterator[None]:
    """The model with the weights that an EMAHook saves, if there is one."""
    hooks = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
    for hook in hooks:
        hook._swap_ema_parameters()
    try:
        yield
    finally:
        for hook in hooks:
            hook._swap_ema_parameters()
