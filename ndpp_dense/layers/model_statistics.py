"""Running statistics of a whole model: freeze, hold, re-estimate, make equal on all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import ProcessGroup
from torch.nn.modules.batchnorm import _BatchNorm

from ndpp_dense.layers.base import nd_layers
from ndpp_dense.layers.statistics.steps import settle_stats
from ndpp_dense.layers.statistics.whitening import Whitening
from ndpp_dense.ops.collectives import world_size

__all__ = ["freeze_stats", "freeze_where_weights_are", "hold_stats", "synchronize_stats", "update_stats"]


def freeze_stats(module: nn.Module, frozen: bool = True) -> int:
    """Makes all ND++ layers below ``module`` use their stored statistics, in training too.

    Sticky: ``.train()`` does not undo it, ``freeze_stats(module, False)`` does.

    Args:
        module: A model or a part of it (a frozen stage, say).
        frozen: Whether to freeze or to release.

    Returns:
        How many layers were set.
    """
    states = list(_states(module))
    for state in states:
        state.freeze(frozen)
    return len(states)


def freeze_where_weights_are(model: nn.Module) -> list[str]:
    """Freezes the statistics of all ND++ layers whose weight does not train; returns their names."""
    frozen = [(name, layer) for name, layer in nd_layers(model) if not layer.weight.requires_grad]
    for _, layer in frozen:
        freeze_stats(layer)
    return [name for name, _ in frozen]


@contextmanager
def hold_stats(module: nn.Module) -> Iterator[None]:
    """Forwards inside the block do not update running statistics.

    For gradient accumulation see :func:`ndpp_dense.micro_batches_of_step`.
    """
    states = list(_states(module))
    for state in states:
        state.hold()
    try:
        yield
    finally:
        for state in states:
            state.release()


@torch.no_grad()
def update_stats(
    model: nn.Module,
    data: Iterable[Any],
    num_batches: int = 20,
    forward: Callable[[nn.Module, Any], Any] | None = None,
) -> int:
    """Re-estimates the running statistics as averages over all rows of some training batches.

    With ``statistics="batch"`` the running D lags behind the weights while the learning rate is high; call this before
    evaluation, saving and folding. The model runs in training mode without gradients, batch normalisation in
    evaluation mode; modes are restored. In a distributed run every rank must call it with as many batches.

    Args:
        model: A model with ND++ layers; nothing is done where it has none that are not frozen.
        data: Training batches; at most ``num_batches`` are drawn.
        num_batches: How many to use, >= 1.
        forward: Runs the model on a batch; ``model(batch)`` by default.

    Returns:
        Number of batches used.

    Raises:
        ValueError: ``num_batches`` is below 1, or ``data`` is empty.
    """
    if num_batches < 1:
        raise ValueError(f"update_stats needs num_batches >= 1, got {num_batches}")
    states = [state for state in _states(model) if not state.frozen]
    if not states:
        return 0
    settle_stats(model)
    run = forward or (lambda model, batch: model(batch))
    used = 0
    with _reestimating(model, states):
        for batch in islice(data, num_batches):
            run(model, batch)
            used += 1
    if used == 0:
        raise ValueError("update_stats got no batch: `data` is empty (an iterator that was used up?)")
    return used


@torch.no_grad()
def synchronize_stats(model: nn.Module, group: ProcessGroup | None = None) -> None:
    """Averages the running statistics of all ranks, so that their buffers are equal to the bit.

    Summed moments keep them equal by themselves; layers with ``sync=False`` and kernels that round differently do not.
    A rank counts by its ``running_weight``, one that saw no row not at all. One collective for the whole model; nothing
    without a process group. Every rank must call it.

    Args:
        model: A model with ND++ layers.
        group: Process group; None is the default group.
    """
    states = list(_states(model))
    if world_size(group) == 1 or not states:
        return
    settle_stats(model)
    buffers = [(buffer, state.running_weight) for state in states for buffer in _averaged(state).values()]
    packed = torch.cat([(buffer * weight).flatten() for buffer, weight in buffers])
    weights = torch.stack([state.running_weight for state in states])
    packed = torch.cat([packed, weights])
    dist.all_reduce(packed, group=group)
    packed, weights = packed.split([len(packed) - len(states), len(states)])
    for state, weight in zip(states, weights, strict=True):
        values = {"running_weight": weight / world_size(group)}
        for name, buffer in _averaged(state).items():
            total, packed = packed.split([buffer.numel(), len(packed) - buffer.numel()])
            values[name] = torch.where(weight > 0, total.view_as(buffer) / weight, buffer)
        state.load(values)


def _averaged(state: Whitening) -> dict[str, torch.Tensor]:
    return {name: buffer for name, buffer in state.statistics().items() if name != "running_weight"}


@contextmanager
def _reestimating(model: nn.Module, states: list[Whitening]) -> Iterator[None]:
    """Training mode with cumulative averages from zero; solves D from them at the end."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    for state in states:
        state.restart_average()
    try:
        yield
    finally:
        for state in states:
            state.finish_average()
        for module, mode in modes:
            module.training = mode


def _states(module: nn.Module) -> Iterator[Whitening]:
    return (layer.whitening for _, layer in nd_layers(module))
