"""Learning the weights of a distance from ratings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ndpp_dense.robustness.perceptual.distance import weighted_root_mean
from ndpp_dense.robustness.perceptual.rating_sets import Pair, ReferenceSplit

__all__ = ["LOSSES", "check_loss", "fit_weight", "train_weight"]

LOSSES = ("rank", "pearson")
_COMPARISONS = 4096  # of two pairs each, drawn for a step of the rank loss
_SHARPNESS = 4.0  # of the rank loss, in standard deviations of the distance


def train_weight(
    terms: Tensor, pairs: Sequence[Pair], split: ReferenceSplit, loss: str = "rank", seed: int = 0
) -> Tensor:
    """Learns weights from the training references of a split, and from them alone.

    Args:
        terms: ``(P, F)`` of all pairs, as :meth:`ndpp_dense.robustness.WeightedDistance.terms` has them.
        pairs: All pairs.
        split: Says which references are for training.
        loss: One of ``LOSSES``.
        seed: Of the comparisons that are drawn.

    Returns:
        ``(F,)``, > 0, with a mean square of 1.
    """
    rows = split.rows(pairs, "train")
    if not len(rows):
        raise ValueError("No pairs of training references: the split is of another set.")
    chosen = [pairs[row] for row in rows]
    ratings = torch.tensor([pair.difference for pair in chosen])
    return fit_weight(terms[torch.from_numpy(rows)], ratings, [pair.scale for pair in chosen], loss, seed)


def fit_weight(
    terms: Tensor,
    rating: Tensor,
    scales: Sequence[str],
    loss: str = "rank",
    seed: int = 0,
    *,
    steps: int = 300,
    lr: float = 0.05,
    decay: float = 0.01,
) -> Tensor:
    """Fits the weights of ``sqrt(mean(w^2 * terms))``.

    Starts where every term has the same mean share, and moves the logarithm of ``w``: no weight becomes negative, and
    none is lost at zero.

    Args:
        terms: ``(P, F)``, >= 0.
        rating: ``(P,)``, larger for pairs that differ more.
        scales: ``(P,)``; ratings of different scales are not compared.
        loss: ``"rank"``: logistic loss of drawn comparisons of two pairs; ``"pearson"``: 1 - correlation.
        seed: Of the draw.
        steps: Of Adam, each on all pairs.
        lr: Of Adam.
        decay: Pull of the logarithms towards the start.

    Returns:
        ``(F,)``, > 0, with a mean square of 1.

    Raises:
        ValueError: Unknown loss, or terms that are all zero.
    """
    check_loss(loss)
    terms = terms.detach().float()
    mean = terms.mean(dim=0)
    if not bool((mean > 0).any()):
        raise ValueError(f"All {len(terms)} pairs are of equal images: there is nothing to learn from.")
    start = 0.5 * -mean.clamp_min(float(mean.max()) * 1e-6).log()
    shift = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.Adam([shift], lr=lr)
    groups = [torch.from_numpy(np.flatnonzero(np.asarray(scales) == name)) for name in sorted(set(scales))]
    groups = [rows for rows in groups if float(rating[rows].max()) > float(rating[rows].min())]
    if not groups:
        raise ValueError("All ratings on a scale are equal: there is no order to learn.")
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        distance = weighted_root_mean(terms, (start + shift).exp())
        share = max(_COMPARISONS // len(groups), 64)
        losses = [
            _pearson(distance[rows], rating[rows])
            if loss == "pearson"
            else _rank(distance[rows], rating[rows], share, generator)
            for rows in groups
        ]
        optimizer.zero_grad()
        (torch.stack(losses).mean() + decay * shift.square().mean()).backward()
        optimizer.step()
    weight = (start + shift.detach()).exp()
    return weight / weight.square().mean().sqrt()


def check_loss(loss: str) -> None:
    """Refuses an unknown loss.

    Raises:
        ValueError: Names the choices.
    """
    if loss not in LOSSES:
        raise ValueError(f"Unknown loss {loss!r}: choose from {', '.join(LOSSES)}.")


def _pearson(distance: Tensor, rating: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(distance - distance.mean(), (rating - rating.mean()).to(distance), dim=0)


def _rank(distance: Tensor, rating: Tensor, count: int, generator: torch.Generator) -> Tensor:
    first, second = torch.randint(len(distance), (2, count), generator=generator)
    order = (rating[first] - rating[second]).sign().to(distance)
    gap = (distance[first] - distance[second]) / distance.std().clamp_min(1e-12)
    return (F.softplus(-_SHARPNESS * order * gap) * order.abs()).sum() / order.abs().sum().clamp_min(1)
