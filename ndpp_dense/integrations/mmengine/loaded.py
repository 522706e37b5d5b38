"""A hook that says how much of a checkpoint the model takes."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import HOOKS

from ndpp_dense.integrations.mmengine.hooks import plain_model
from ndpp_dense.redaction import redacted
from ndpp_dense.zoo.mismatches import mismatches

__all__ = ["NDPPLoadHook"]


@HOOKS.register_module()
class NDPPLoadHook(Hook):
    """Logs how many of the model's weights ``load_from`` gives, and a table of those that do not fit.

    MMEngine loads what fits and logs a list of names for the rest, in which it is easy to miss that a backbone was
    left at random. A checkpoint of another task keeps its own head: that is a warning; one that gives nothing is an
    error.
    """

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Compares names and shapes before MMEngine loads them.

        Raises:
            ValueError: Nothing in the checkpoint fits.
        """
        if getattr(runner, "_resume", False):
            return  # a run's own checkpoint
        found = checkpoint.get("state_dict", checkpoint)
        found = {name.removeprefix("module."): value for name, value in found.items() if hasattr(value, "shape")}
        state = plain_model(runner).state_dict()
        wanted = {name: value for name, value in state.items() if not name.endswith(".num_batches_tracked")}
        taken = sum(name in found and found[name].shape == value.shape for name, value in wanted.items())
        source = redacted(getattr(runner, "_load_from", None) or "the checkpoint")
        table = mismatches(found, state)
        if not taken:
            raise ValueError(
                f"load_from: none of the {len(wanted)} weights of the model is in {source}:\n{table}\nTo start only a "
                "backbone from a file, give model.backbone.init_cfg; ndpp convert makes files that fit."
            )
        log = MMLogger.get_current_instance().log
        message = "load_from: %d of %d weights taken from %s, %d unmatched"
        log(logging.INFO, message, taken, len(wanted), source, len(wanted) - taken)
        if table:
            log(logging.WARNING, "load_from: what does not fit\n%s", table)
