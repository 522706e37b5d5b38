"""Moving averages of moments: one formula, and a kernel for each place where it is computed.

A step of n rows has the share r in the new averages (:func:`share_of_step`, the only place that says how large it is).
With ``o`` the step's mean less the running one, the averages are those of the weighted union of all rows::

    mean <- mean + r o            cov <- (1 - r) cov + r cov_of_step + r (1 - r) o o^T
                                      =  (1 - r) cov + r outer / n   - r^2 o o^T      (moments about the running mean)

The kernels differ in what they are given and in how often they pass over memory, so they round differently:

* :func:`blend_averages`: mean and covariance of the step, where those are at hand (a layer that whitens by its batch).
* :func:`move_averages`: moments, in place, in two passes: values at hand on a CPU.
* :func:`average_moments`: moments of many layers at once, into new tensors: what an exchange brings.

Shape suffixes: L layers, G blocks of all these layers, D columns of a block.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from ndpp_dense.ops.moments import Moments

__all__ = [
    "MIN_ROWS",
    "Averages",
    "are_usable",
    "average_moments",
    "blend_averages",
    "layer_of_block",
    "move_averages",
    "share_of_step",
    "squared_magnitude",
]

MIN_ROWS = 2  # one row has no covariance

Number = TypeVar("Number", float, Tensor)


class Averages(NamedTuple):
    """Bias-corrected moving averages.

    Attributes:
        mean: ``(G, D)``.
        cov: ``(G, D, D)``.
        weight: ``(L,)``, weight of all steps averaged so far, 1 in the limit.
    """

    mean: Tensor
    cov: Tensor
    weight: Tensor


def share_of_step(
    weight: Number, rows: Number, dim: int, momentum: float | None, corrected: bool = True
) -> tuple[Number, Number]:
    """The share of a step in the averages, and the weight of all steps with it.

    Args:
        weight: Of all steps before: a number, or a tensor with one value a layer.
        rows: Of the step, likewise; 0 where they are not usable, which gives the share 0.
        dim: Columns of the data matrix: fewer rows than these weigh less.
        momentum: Weight of a step in a moving average; None makes an average over all rows of all steps.
        corrected: Whether the share is corrected for the bias of an average that began at 0.
    """
    if momentum is None:
        total = cast(Number, weight + rows)
        return cast(Number, rows / _at_least(total, 1.0)), total
    rate = cast(Number, momentum * _at_most(cast(Number, rows / dim), 1.0))
    total = cast(Number, weight + rate * (1 - weight))
    return (cast(Number, rate / _at_least(total, _tiny(total))) if corrected else rate), total


def _at_most(value: Number, limit: float) -> Number:
    return value.clamp(max=limit) if isinstance(value, Tensor) else min(value, limit)


def _at_least(value: Number, limit: float) -> Number:
    return value.clamp(min=limit) if isinstance(value, Tensor) else max(value, limit)


def _tiny(value: Tensor | float) -> float:
    return torch.finfo(value.dtype).tiny if isinstance(value, Tensor) else sys.float_info.min


def are_usable(moments: Moments) -> Tensor:
    """Whether moments are finite (in square too, as the solver's norm needs) and rest on enough rows."""
    return torch.isfinite(squared_magnitude(moments)) & (moments.count.detach() >= MIN_ROWS)


def average_moments(
    before: Averages, moments: Moments, momentum: float, layer_of_block: Tensor
) -> tuple[Averages, Tensor]:
    """Averages after one more step: new tensors, equal to what layer by layer gives.

    Args:
        before: Averages so far.
        moments: Of the step, about ``before.mean``; one count a layer. A layer with fewer than two rows, or with sums
            that are not finite (in square too, as the solver's norm needs), keeps its averages.
        momentum: Weight of a step with at least D rows; fewer weigh less.
        layer_of_block: ``(G,)``, see :func:`layer_of_block`.

    Returns:
        The averages, and for every block whether its layer's moments were usable, ``(G,)``.
    """
    dim = before.mean.shape[1]
    magnitude = moments.outer.square().sum((1, 2)) + moments.total.square().sum(1)
    broken = torch.zeros_like(moments.count).index_add_(0, layer_of_block, (~magnitude.isfinite()).to(magnitude.dtype))
    usable = (broken == 0) & (moments.count >= MIN_ROWS)
    rate, weight = share_of_step(before.weight, moments.count * usable, dim, momentum)
    rate = rate[layer_of_block]
    count, usable = moments.count.clamp(min=1)[layer_of_block], usable[layer_of_block]
    offset = torch.where(usable, rate / count, 0).unsqueeze(1) * torch.where(usable.unsqueeze(1), moments.total, 0)
    outer = torch.where(usable.view(-1, 1, 1), moments.outer / count.view(-1, 1, 1), before.cov)
    cov = torch.lerp(before.cov, outer, rate.view(-1, 1, 1))
    cov.baddbmm_(offset.unsqueeze(2), offset.unsqueeze(1), alpha=-1)
    return Averages(before.mean + offset, cov, weight), usable


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # what is kept here must serve in training too
def layer_of_block(blocks: tuple[int, ...], device: torch.device) -> Tensor:
    """Which layer each block belongs to, ``(sum(blocks),)``, where layer i has ``blocks[i]`` of them."""
    return torch.tensor([layer for layer, count in enumerate(blocks) for _ in range(count)], device=device)


def move_averages(mean_GD: Tensor, cov_GDD: Tensor, moments: Moments, rate: float, count: float) -> None:
    """Moves averages in place by usable moments, in two passes.

    Args:
        mean_GD: Running mean of some blocks of a layer.
        cov_GDD: Their running covariance.
        moments: Of the step, about ``mean_GD``.
        rate: Share of the step in the new averages, in [0, 1].
        count: Number of rows, at least 1.
    """
    offset_GD = moments.total * (rate / count)
    cov_GDD.baddbmm_(offset_GD.unsqueeze(2), offset_GD.unsqueeze(1), beta=1 - rate, alpha=-1)
    cov_GDD.add_(moments.outer, alpha=rate / count)
    mean_GD.add_(offset_GD)


def blend_averages(mean_GD: Tensor, cov_GDD: Tensor, step_mean_GD: Tensor, step_cov_GDD: Tensor, rate: Tensor) -> None:
    """Moves averages in place by a step's mean and covariance.

    Args:
        mean_GD: Running mean of a layer.
        cov_GDD: Its running covariance.
        step_mean_GD: Of the step.
        step_cov_GDD: Likewise, about that mean.
        rate: Share of the step in the new averages, a scalar in [0, 1].
    """
    offset_GD = step_mean_GD - mean_GD
    spread_GDD = rate * (1 - rate) * (offset_GD.unsqueeze(2) * offset_GD.unsqueeze(1))  # of the means themselves
    cov_GDD.lerp_(step_cov_GDD, rate).add_(spread_GDD)
    mean_GD.lerp_(step_mean_GD, rate)


def squared_magnitude(moments: Moments) -> Tensor:
    """Sum of the squares of all sums: not finite where the solver's norm would not be. Records no gradient."""
    total, outer = moments.total.detach().flatten(), moments.outer.detach().flatten()
    return torch.dot(total, total) + torch.dot(outer, outer)
