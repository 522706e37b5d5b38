"""Moving averages of moments: one formula, and a kernel for each place where it is computed.

A step of n rows has the share r in the new averages (:func:`share_of_step`, the only place that says how large it is).
With ``o`` the step's mean less the running one, the averages are those of the weighted union of all rows::

    mean <- mean + r o            cov <- (1 - r) cov + r cov_of_step + r (1 - r) o o^T
                                      =  (1 - r) cov + r outer / n   - r^2 o o^T      (moments about the running mean)

The kernels differ in what they are given and in how often they pass over memory, so they round differently:

* :func:`move_averages`: in place, in two passes: values at hand on a CPU.
* :func:`moved_averages`: into new tensors, in few operations, without a look at values: a layer on a device.
* :func:`average_moments`: the same for many layers at once: what an exchange brings.

Shape suffixes: L layers, G blocks of all these layers, D columns of a block.
"""

from __future__ import annotations

import sys
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from ndpp_dense.ops.eager import made_once, scalar
from ndpp_dense.ops.moments import Moments

__all__ = [
    "MIN_ROWS",
    "Averages",
    "are_usable",
    "average_moments",
    "layer_of_block",
    "move_averages",
    "moved_averages",
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
    """Whether moments are finite (in square too, as the solver's norm needs) and rest on enough rows.

    The latter is left to the caller where the count is a number.
    """
    # Totals are finite where the squares of rows are, and so are their squares where those of the sums of squares are.
    finite = torch.linalg.vector_norm(moments.outer.detach()) < torch.inf
    return finite & (moments.count.detach() >= MIN_ROWS) if isinstance(moments.count, Tensor) else finite


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
    counts = torch.as_tensor(moments.count)
    broken = torch.zeros_like(counts).index_add_(0, layer_of_block, (~magnitude.isfinite()).to(magnitude.dtype))
    usable = (broken == 0) & (counts >= MIN_ROWS)
    rate, weight = share_of_step(before.weight, counts * usable, dim, momentum)
    rate = rate[layer_of_block]
    count, usable = counts.clamp(min=1)[layer_of_block], usable[layer_of_block]
    offset = torch.where(usable, rate / count, 0).unsqueeze(1) * torch.where(usable.unsqueeze(1), moments.total, 0)
    outer = torch.where(usable.view(-1, 1, 1), moments.outer / count.view(-1, 1, 1), before.cov)
    cov = torch.lerp(before.cov, outer, rate.view(-1, 1, 1))
    cov.baddbmm_(offset.unsqueeze(2), offset.unsqueeze(1), alpha=-1)
    return Averages(before.mean + offset, cov, weight), usable


@made_once
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


def moved_averages(
    before: Averages, moments: Moments, usable: Tensor, momentum: float | None, corrected: bool = True
) -> tuple[Averages, Tensor]:
    """Averages of a layer after one more step, as new tensors; records no gradient.

    Args:
        before: Averages so far; the weight is a scalar.
        moments: Of the step, about ``before.mean``.
        usable: Whether they count, a scalar.
        momentum: Weight of a step with at least D rows, or None; see :func:`share_of_step`.
        corrected: See :func:`share_of_step`.

    Returns:
        The averages, and the share of the step in them.
    """
    count = moments.count.detach().clamp(min=1) if isinstance(moments.count, Tensor) else max(moments.count, 1)
    share, weight = _share_if(usable, before.weight, moments.count, before.mean.shape[1], momentum, corrected)
    # What is not finite is not used, and 0 times another number is 0.
    total, outer = (torch.nan_to_num(sums.detach()) for sums in (moments.total, moments.outer))
    total, outer = torch._foreach_div([total, outer], count)  # pyright: ignore[reportPrivateImportUsage]
    offset = total * share
    cov = torch.lerp(before.cov, outer, share)
    cov.baddbmm_(offset.unsqueeze(2), offset.unsqueeze(1), alpha=-1)
    return Averages(before.mean + offset, cov, weight), share


def _share_if(
    usable: Tensor, weight: Tensor, rows: Tensor | float, dim: int, momentum: float | None, corrected: bool
) -> tuple[Tensor, Tensor]:
    """:func:`share_of_step` with a weight on a device; a share of 0 where the step is not usable."""
    if isinstance(rows, Tensor):
        return share_of_step(weight, rows.detach() * usable, dim, momentum, corrected)
    if momentum is None:
        return share_of_step(weight, usable * scalar(float(rows), weight.dtype), dim, momentum)
    rate = usable * scalar(momentum * _at_most(rows / dim, 1.0), weight.dtype)
    total = torch.lerp(weight, torch.ones_like(weight), rate)
    return (rate / _at_least(total, _tiny(total)) if corrected else rate), total


def squared_magnitude(moments: Moments) -> Tensor:
    """Sum of the squares of all sums: not finite where the solver's norm would not be. Records no gradient."""
    total, outer = moments.total.detach().flatten(), moments.outer.detach().flatten()
    return torch.dot(total, total) + torch.dot(outer, outer)
