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
from ndpp_dense.ops.precision import full_precision


def freeze_stats(module: nn.Module, frozen: bool = True) -> int:
    """Makes all ND++ layers below ``module`` use their stored statistics, in training too.

    Sticky: ``.train()`` does not undo it, ``freeze_stats(module, False)`` does.

    Args:
        module: A model or a part of it (a frozen stage, say).
        frozen: Whether to freeze or to release.

    Returns:
        How many layers were set.
    """
    settle_stats(module)
    states = list(_states(module))
    for state in states:
        state.frozen = frozen
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

    For gradient accumulation see :func:`ndpp_dense.portions_of_step`.
    """
    before = [(state, state.held) for state in _states(module)]
    for state, _ in before:
        state.held = True
    try:
        yield
    finally:
        for state, held in before:
            state.held = held


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
    packed = torch.cat([(buffer * state.running_weight).flatten() for state in states for buffer in _averaged(state)])
    weights = torch.stack([state.running_weight for state in states])
    packed = torch.cat([packed, weights])
    dist.all_reduce(packed, group=group)
    packed, weights = packed.split([len(packed) - len(states), len(states)])
    for state, weight in zip(states, weights, strict=True):
        for buffer in _averaged(state):
            total, packed = packed.split([buffer.numel(), len(packed) - buffer.numel()])
            buffer.copy_(torch.where(weight > 0, total.view_as(buffer) / weight, buffer))
        state.running_weight.copy_(weight / world_size(group))


def _averaged(state: Whitening) -> tuple[torch.Tensor, ...]:
    return state.running_mean, state.running_cov, state.running_whitening


@contextmanager
def _reestimating(model: nn.Module, states: list[Whitening]) -> Iterator[None]:
    """Training mode with cumulative averages from zero; solves D from them at the end."""
    modes = [(module, module.training) for module in model.modules()]
    momenta = [state.momentum for state in states]
    stored = [{name: buffer.clone() for name, buffer in state.named_buffers()} for state in states]
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    for state in states:
        state.momentum = None
        state.running_weight.zero_()
    try:
        yield
    finally:
        for state, momentum, before in zip(states, momenta, stored, strict=True):
            state.momentum = momentum
            _finish(state, before)
        for module, mode in modes:
            module.training = mode


def _finish(state: Whitening, before: dict[str, torch.Tensor]) -> None:
    """Keeps the new average, or what was there where no usable row came by."""
    state.forget_start()
    if state.running_weight == 0:
        for name, buffer in state.named_buffers():
            buffer.copy_(before[name])
        return
    with full_precision(state.running_cov.device):
        state.running_whitening.copy_(state.solve(state.running_cov))
    state.running_weight.fill_(1)


def _states(module: nn.Module) -> Iterator[Whitening]:
    return (layer.whitening for _, layer in nd_layers(module))
