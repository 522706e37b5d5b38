"""Moving averages of the moments of many layers at once.

Shape suffixes: L layers, G blocks of all these layers, D columns of a block.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ndpp_dense.ops.moments import Moments

MIN_ROWS = 2  # one row has no covariance


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


def average_moments(
    before: Averages, moments: Moments, momentum: float, layer_of_block: Tensor
) -> tuple[Averages, Tensor]:
    """Averages after one more step: new tensors, equal to what layer by layer gives.

    With the rate r of a step the covariance is ``(1 - r) C + r outer / n - r^2 o o^T``, where ``o`` is the step's mean
    less the one before; that is its spread about the new mean.

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
    rate = momentum * (moments.count / dim).clamp(max=1) * usable
    weight = before.weight + rate * (1 - before.weight)
    rate = (rate / weight.clamp(min=torch.finfo(rate.dtype).tiny))[layer_of_block]
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
    """Moves averages in place by usable moments: the formula of :func:`average_moments` in two passes.

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


def squared_magnitude(moments: Moments) -> Tensor:
    """Sum of the squares of all sums: not finite where the solver's norm would not be. Records no gradient."""
    total, outer = moments.total.detach().flatten(), moments.outer.detach().flatten()
    return torch.dot(total, total) + torch.dot(outer, outer)
