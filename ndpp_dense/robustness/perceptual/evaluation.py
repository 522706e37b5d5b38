"""How well distances agree with ratings, ours and its baselines in one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ndpp_dense.robustness.perceptual.baselines import ActivationDistance
from ndpp_dense.robustness.perceptual.correlation import (
    Agreement,
    Interval,
    agreement,
    bootstrap,
    rank_correlations,
    within_one,
)
from ndpp_dense.robustness.perceptual.distance import GapDistance, WeightedDistance, weighted_root_mean
from ndpp_dense.robustness.perceptual.rating_sets import Pair, RatingSet, ReferenceSplit
from ndpp_dense.robustness.perceptual.stages import StageMaps
from ndpp_dense.robustness.perceptual.training import train_weight

__all__ = ["OWN", "Row", "evaluate", "learned", "measure", "variants"]

Metric = Callable[[Tensor, Tensor], Tensor]  # of images of [0, 1], (N,) or terms (N, F)
OWN = {"gap": "GAP", "activation": "activations in place"}  # distances on the backbone that is given
_VARIANTS = ("uniform", "trained")


@dataclass(frozen=True)
class Row:
    """What was found of one distance on the test references.

    Attributes:
        agreement: With the ratings.
        by_kind: Spearman's coefficient of each kind of distortion alone.
        lead: Spearman's coefficient of the first distance minus that of this one, on the same resamples.
        values: ``(P,)`` of all pairs, those for training too.
    """

    agreement: Agreement
    by_kind: Mapping[str, Interval]
    lead: Interval
    values: np.ndarray = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """All but the values, as plain numbers."""
        kinds = {kind: asdict(interval) for kind, interval in self.by_kind.items()}
        return {"agreement": self.agreement.as_dict(), "by_kind": kinds, "lead": asdict(self.lead)}


def learned(stages: StageMaps) -> dict[str, WeightedDistance]:
    """Our distance and its fair baseline on a backbone, by the names of ``OWN``."""
    return {"gap": GapDistance(stages), "activation": ActivationDistance(stages)}


def variants(name: str, terms: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Distances ``(N,)`` from terms ``(N, F)``, with uniform and with given weights, by the names of rows."""
    weights = (None, weight.to(terms.device))
    return {f"{name} {word}": weighted_root_mean(terms, own) for word, own in zip(_VARIANTS, weights, strict=True)}


@torch.no_grad()
def measure(
    ratings: RatingSet,
    metrics: Mapping[str, Metric],
    device: torch.device | str = "cpu",
    batch_size: int = 32,
    progress: bool = False,
) -> dict[str, Tensor]:
    """Measures all pairs; a reference is sent through once for a batch of its distorted images.

    Args:
        ratings: The pairs.
        metrics: By name.
        device: Where they are.
        batch_size: Distorted images at a time.
        progress: Show a bar with the time left, on terminals.

    Returns:
        By name, ``(P,)`` or ``(P, F)``, on the CPU.
    """
    from tqdm import tqdm

    found: dict[str, list[Tensor]] = {name: [] for name in metrics}
    bar = tqdm(total=len(ratings.pairs), desc=ratings.name, unit="pair", disable=None if progress else True)
    for name, group in groupby(ratings.pairs, key=lambda pair: pair.reference):
        reference = ratings.reference(name)[None].to(device)
        pairs = list(group)
        for start in range(0, len(pairs), batch_size):
            chunk = pairs[start : start + batch_size]
            images = torch.stack([ratings.distorted(pair) for pair in chunk]).to(device)
            for metric, distance in metrics.items():
                found[metric].append(distance(reference, images).float().cpu())
            bar.update(len(chunk))
    bar.close()
    return {name: torch.cat(values) for name, values in found.items()}


def evaluate(
    ratings: RatingSet,
    measured: Mapping[str, Tensor],
    split: ReferenceSplit,
    loss: str = "rank",
    seed: int = 0,
    given: Mapping[str, Tensor] | None = None,
    resamples: int = 1000,
) -> tuple[dict[str, Row], dict[str, Tensor]]:
    """Correlates distances with ratings on the test references.

    Args:
        ratings: The pairs.
        measured: By name; terms ``(P, F)`` give two rows, with uniform weights and with weights trained on the
            training references.
        split: Of the references.
        loss: Of the training, see :func:`ndpp_dense.robustness.perceptual.training.fit_weight`.
        seed: Of training and resamples.
        given: Weights to use in place of training, by the names of ``measured``.
        resamples: For the intervals.

    Returns:
        Rows by name, and the weights by the names of ``measured``. "gap trained" is the first where there is one.
    """
    values: dict[str, np.ndarray] = {}
    weights: dict[str, Tensor] = {}
    for name, found in measured.items():
        if found.ndim == 1:
            values[name] = found.double().numpy()
            continue
        own = (given or {}).get(name)
        weights[name] = train_weight(found, ratings.pairs, split, loss, seed) if own is None else own.detach().cpu()
        values |= {row: distance.double().numpy() for row, distance in variants(name, found, weights[name]).items()}
    rows = split.rows(ratings.pairs, "test")
    pairs = [ratings.pairs[row] for row in rows]
    first = next(name for name in ("gap trained", *values) if name in values)
    return {name: _row(value, rows, values[first], pairs, (resamples, seed)) for name, value in values.items()}, weights


def _row(values: np.ndarray, test: np.ndarray, first: np.ndarray, pairs: Sequence[Pair], draws: tuple[int, int]) -> Row:
    """From distances of all pairs, and those of the first row; ``pairs`` are the test's."""
    chosen, first = values[test], first[test]
    rating = np.array([pair.difference for pair in pairs])
    references = np.array([pair.reference for pair in pairs])
    names, kinds = np.unique([pair.kind for pair in pairs], return_inverse=True)
    scales = np.unique([pair.scale for pair in pairs], return_inverse=True)[1]
    total = agreement(chosen, rating, references, [pair.scale for pair in pairs], *draws)

    def of_kinds(rows: np.ndarray) -> np.ndarray:
        own = [rows[kinds[rows] == kind] for kind in range(len(names))]
        return np.array([rank_correlations(chosen[r], rating[r], scales[r], kendall=False)[0] for r in own])

    def lead(rows: np.ndarray) -> np.ndarray:
        both = (rank_correlations(value[rows], rating[rows], scales[rows], kendall=False) for value in (first, chosen))
        return np.subtract(*both)[:1]

    by_kind = dict(zip(names.tolist(), map(within_one, bootstrap(of_kinds, references, *draws)), strict=True))
    return Row(total, by_kind, bootstrap(lead, references, *draws)[0], values)
