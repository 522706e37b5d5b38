"""Stops a diverged training before its weights are spoilt, and names the layer."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import find_latest_checkpoint

from ndpp_dense.integrations.mmengine.hooks import plain_model
from ndpp_dense.training.nonfinite import divergence_message, first_nonfinite_layer
from ndpp_dense.training.rng import get_rng_state, set_rng_state

__all__ = ["NDPPNaNGuardHook"]

ADVICE = (
    "Try a lower optim_wrapper.optimizer.lr, a longer warm-up in param_scheduler, "
    "optim_wrapper.clip_grad=dict(max_norm=...), or a larger model.ndpp.eps if the layer is an ND++ layer."
)


@HOOKS.register_module()
class NDPPNaNGuardHook(Hook):
    """Raises FloatingPointError when the loss is not finite on any rank, before the optimizer uses it."""

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self._batch: Any = None
        self._random: dict[str, Any] = {}

    def before_train(self, runner: Any) -> None:
        """Puts a check in front of the optimizer's step."""
        update = runner.optim_wrapper.update_params
        runner.optim_wrapper.update_params = functools.partial(self._checked, runner, update)

    def after_train(self, runner: Any) -> None:
        """Takes the check away."""
        vars(runner.optim_wrapper).pop("update_params", None)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Keeps what repeating the step needs."""
        self._batch, self._random = data_batch, get_rng_state()

    def _checked(self, runner: Any, update: Callable[..., None], loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        bad = (~torch.isfinite(loss.detach()).all()).float()
        all_reduce(bad)
        if bad.item():
            raise FloatingPointError(self._describe(runner, loss))
        update(loss, *args, **kwargs)

    def _describe(self, runner: Any, loss: torch.Tensor) -> str:
        set_rng_state(self._random)
        model = plain_model(runner)

        def repeat() -> None:
            with runner.optim_wrapper.optim_context(runner.model):
                model._run_forward(model.data_preprocessor(self._batch, True), mode="loss")  # type: ignore[operator]

        # All ranks are here: tell the same story everywhere.
        found = all_gather_object((first_nonfinite_layer(model, repeat), loss.item()))
        rank = next(rank for rank, (_, value) in enumerate(found) if not math.isfinite(value))
        layer, value = found[rank]
        cause = f"the loss is {value:.4g}" + (f" on rank {rank}" if runner.world_size > 1 else "")
        return divergence_message(runner.iter, cause, layer, find_latest_checkpoint(runner.work_dir), ADVICE)
