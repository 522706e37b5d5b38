"""Good statistics for evaluating and saving, without a trace in the training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from ndpp_dense.distributed.equal_buffers import warn_if_unequal
from ndpp_dense.layers.base import nd_layers
from ndpp_dense.layers.model_statistics import synchronize_stats, update_stats
from ndpp_dense.layers.statistics.steps import settle_stats
from ndpp_dense.layers.statistics.whitening import Whitening
from ndpp_dense.training.rng import isolated_rng

__all__ = ["EvaluationStats"]

# Fixed, so that the batches from which statistics are estimated are the same in every run.
STATS_SEED = 2022


class EvaluationStats:
    """Lends a model in training the statistics that evaluation wants, and takes them back.

    Where statistics follow single batches (``statistics="batch"``, or a momentum above a half), what is stored is that
    of former weights: they are estimated anew from training batches drawn with a fixed seed. Then they are made equal
    on all ranks.

    Args:
        model: The model without DistributedDataParallel.
        batches: Makes an iterator over training batches from a seed.
        num_batches: Training batches to estimate from, >= 1.
        forward: Runs the model on a batch; ``model(batch)`` by default.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Callable[[int], Iterable[Any]],
        num_batches: int,
        forward: Callable[[nn.Module, Any], Any] | None = None,
    ) -> None:
        self._model = model
        self._batches = batches
        self._num_batches = num_batches
        self._forward = forward
        self._own: dict[str, torch.Tensor] = {}

    @property
    def lent(self) -> bool:
        """Whether the model holds lent statistics at the moment."""
        return bool(self._own)

    def lend(self) -> None:
        """Prepares the statistics for evaluation, if they are not so already. Every rank must call it."""
        if self.lent:
            return
        settle_stats(self._model)
        warn_if_unequal(self._model)
        self._own = {name: buffer.clone() for name, buffer in self._buffers()}
        if any(layer.config.follows_single_batches for _, layer in nd_layers(self._model)):
            with isolated_rng(STATS_SEED, cuda=True):
                update_stats(self._model, self._batches(STATS_SEED), self._num_batches, self._forward)
        synchronize_stats(self._model)

    def take_back(self) -> None:
        """Puts the run's own statistics back."""
        self._load(self._own)
        self._own = {}

    def state_dict(self) -> dict[str, Any]:
        """Returns the run's own statistics where the model holds lent ones."""
        return {"own": dict(self._own)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts the run's own statistics into the model."""
        self._load(state["own"])

    def _buffers(self) -> Iterator[tuple[str, torch.Tensor]]:
        for prefix, state in self._states():
            yield from ((f"{prefix}.{name}", buffer) for name, buffer in state.statistics().items())

    def _states(self) -> Iterator[tuple[str, Whitening]]:
        for name, layer in nd_layers(self._model):
            yield f"{name}.whitening" if name else "whitening", layer.whitening

    def _load(self, saved: dict[str, torch.Tensor]) -> None:
        if not saved:
            return
        for prefix, state in self._states():
            state.load({name: saved[f"{prefix}.{name}"] for name in state.statistics()})
