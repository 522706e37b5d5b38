"""How the moments of a step move a layer's running statistics, and D with them.

Shape suffixes: see ``ndpp_dense.ops.moments``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ndpp_dense.ops.averaging import MIN_ROWS, move_averages, squared_magnitude
from ndpp_dense.ops.eager import runs_eagerly
from ndpp_dense.ops.moments import Moments
from ndpp_dense.ops.newton import at_once

if TYPE_CHECKING:
    from ndpp_dense.layers.statistics.whitening import Whitening


def are_usable(moments: Moments) -> Tensor:
    """Whether moments are finite (in square too, as the solver's norm needs) and rest on enough rows."""
    return torch.isfinite(squared_magnitude(moments)) & (moments.count.detach() >= MIN_ROWS)


@torch.no_grad()
def update(
    state: Whitening, count: Tensor, usable: Tensor, mean: Tensor, cov: Tensor, whitening: Tensor | None = None
) -> None:
    """Moves the running statistics towards a step's, as far as its rows carry: few rows move them little.

    Args:
        state: Whose buffers are written.
        count: Rows of the step.
        usable: Whether they count.
        mean: ``(G, D)``, of the step.
        cov: ``(G, D, D)``, of the step.
        whitening: D of the step, where that is averaged.
    """
    dim = state.running_mean.shape[1]
    if state.momentum is None:
        weight = count * usable
        state.running_weight += weight
        rate = weight / state.running_weight.clamp(min=1)
    else:
        rate = state.momentum * (count / dim).clamp(max=1) * usable
        state.running_weight += rate * (1 - state.running_weight)
        if state.config.statistics == "ema":
            rate = rate / state.running_weight.clamp(min=torch.finfo(rate.dtype).tiny)
    offset = mean - state.running_mean
    spread = rate * (1 - rate) * (offset.unsqueeze(2) * offset.unsqueeze(1))  # of the means themselves
    state.running_cov.lerp_(cov, rate).add_(spread)
    state.running_mean.lerp_(mean, rate)
    if whitening is not None and state.momentum is not None:
        state.running_whitening.lerp_(whitening, rate)


def values_are_at_hand(state: Whitening) -> bool:
    """Whether the program may look at statistics without waiting for a device: on the CPU, running eagerly."""
    return state.running_cov.device.type == "cpu" and runs_eagerly(state.running_cov)


@torch.no_grad()
def update_in_place(state: Whitening, moments: Moments) -> None:
    """:func:`update` and D solved from it, where values are at hand; nothing if the moments are not usable.

    A few blocks at a time, as many as the cache holds: averages are read and written once, and D is solved while they
    are near.

    Args:
        state: With ``statistics="ema"``; its buffers are written.
        moments: Of a step over all ranks, about the running mean.
    """
    count = float(moments.count)
    if count < MIN_ROWS or not squared_magnitude(moments).isfinite():
        return
    rate, weight = _share_and_weight(state, count)
    state.running_weight.fill_(weight)
    tensors = (moments.total, moments.outer, state.running_mean, state.running_cov, state.running_whitening)
    parts = (tensor.split(at_once(state.running_cov)) for tensor in tensors)
    for total, outer, mean, cov, whitening in zip(*parts, strict=True):
        move_averages(mean, cov, Moments(moments.count, total, outer), rate, count)
        whitening.copy_(state.solve(cov))


def _share_and_weight(state: Whitening, count: float) -> tuple[float, float]:
    """The share of a step of ``count`` rows in the averages, and the weight of all steps with it."""
    before = float(state.running_weight)
    if state.momentum is None:
        return count / (before + count), before + count
    rate = state.momentum * min(count / state.running_mean.shape[1], 1)
    weight = before + rate * (1 - before)
    return rate / weight, weight
