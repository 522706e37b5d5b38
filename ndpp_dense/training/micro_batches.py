"""Gradient accumulation: the micro-batches of an optimizer step, and what each does to the statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from ndpp_dense.layers.base import nd_layers
from ndpp_dense.layers.model_statistics import hold_stats
from ndpp_dense.layers.statistics.steps import micro_batch_of_step
from ndpp_dense.training.rng import get_rng_state, set_rng_state

__all__ = ["micro_batches_of_step"]


def micro_batches_of_step(
    model: nn.Module, count: int, whole: Callable[[], Any]
) -> Sequence[AbstractContextManager[None]]:
    """The blocks in which to run the micro-batches of an optimizer step (gradient accumulation), one after the other.

    In each the running statistics move as :func:`ndpp_dense.micro_batch_of_step` says: by the rows of all
    micro-batches under ``schedule="stale"``, by those of the first under the other schedules. Where no layer under
    ``"stale"`` has statistics yet, all take them from the whole batch beforehand, by a forward pass without gradients,
    so that the first step does not depend on the micro-batches either.

    Args:
        model: The converted model, or one that holds it (not DistributedDataParallel).
        count: Micro-batches of this rank, >= 1; as many on every rank.
        whole: Runs the model on all micro-batches put together. Random numbers that it draws are drawn again
            afterwards.

    Returns:
        As many contexts as there are micro-batches, each to be entered once.
    """
    states = [layer.whitening for _, layer in nd_layers(model)]
    stale = [state for state in states if state.schedule.stale and not state.frozen]
    if count == 1 or not stale or any(state.started() for state in stale):
        return [micro_batch_of_step(model, index, count) for index in range(count)]
    before = get_rng_state()
    with torch.no_grad():
        whole()
    set_rng_state(before)
    return [hold_stats(model) for _ in range(count)]
