"""Rank correlation of distances with ratings, with intervals over the reference images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

__all__ = ["Agreement", "Interval", "agreement", "bootstrap", "rank_correlations", "within_one"]

Statistic = Callable[[np.ndarray], np.ndarray]  # from indices of pairs to values


@dataclass(frozen=True)
class Interval:
    """An estimate between the ends of its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Agreement:
    """How well distances order pairs of images as ratings do.

    Attributes:
        spearman: In [-1, 1]; 1 where the orders are equal.
        kendall: Tau-b, likewise.
        pairs: Number of pairs.
        references: Number of reference images, over which the intervals are.
    """

    spearman: Interval
    kendall: Interval
    pairs: int
    references: int

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return asdict(self)


def agreement(
    distance: Sequence[float] | np.ndarray,
    rating: Sequence[float] | np.ndarray,
    references: Sequence[str] | np.ndarray,
    scales: Sequence[str] | np.ndarray | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Agreement:
    """Correlates distances with ratings.

    Args:
        distance: ``(P,)``, larger for pairs that differ more.
        rating: ``(P,)``, likewise.
        references: ``(P,)`` names of the reference images.
        scales: ``(P,)`` names of the scales that ratings are on: those of different scales are not compared, and the
            correlation is the mean over scales. None: all are on one.
        resamples: For the intervals of 95%, drawn with replacement from the references, each with all its pairs: pairs
            of one reference are no independent witnesses.
        seed: Of these.

    Raises:
        ValueError: Lengths differ, values are not finite, or there is nothing to correlate.
    """
    distances, ratings = np.asarray(distance, dtype=float), np.asarray(rating, dtype=float)
    names, on = np.asarray(references), np.asarray(scales if scales is not None else [""] * len(references))
    lengths = {"distance": len(distances), "rating": len(ratings), "references": len(names), "scales": len(on)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"Numbers of pairs differ: {lengths}.")
    for what, values in (("distance", distances), ("rating", ratings)):
        if not np.isfinite(values).all():
            raise ValueError(f"The {what} of pair {int(np.argmin(np.isfinite(values)))} is not finite.")
    for scale in dict.fromkeys(on):
        for what, values in (("distance", distances[on == scale]), ("rating", ratings[on == scale])):
            if not len(values) or values.min() == values.max():
                where = f" on the scale {str(scale)!r}" if scale else ""
                raise ValueError(
                    f"Nothing to correlate: the {what} of all {len(values)} pairs{where} is equal. "
                    "Constant images and copies have no order; give more pairs."
                )

    number = np.unique(on, return_inverse=True)[1]  # which are compared faster than words

    def both(chosen: np.ndarray) -> np.ndarray:
        return rank_correlations(distances[chosen], ratings[chosen], number[chosen])

    spearman, kendall = (within_one(found) for found in bootstrap(both, names, resamples, seed))
    return Agreement(spearman, kendall, len(distances), len(set(names)))


def bootstrap(statistic: Statistic, references: np.ndarray, resamples: int = 1000, seed: int = 0) -> list[Interval]:
    """Intervals of 95% over references, by the percentiles of the resamples around the value.

    A reference that is drawn twice agrees with itself, which raises correlations of pooled pairs in all resamples:
    their mean is therefore moved to the value.

    Args:
        statistic: From indices of pairs to one or more values; not a number where a resample has none.
        references: ``(P,)`` names.
        resamples: Number; 0 leaves the ends at the value.
        seed: Equal seeds draw equal references, whatever the statistic.

    Raises:
        ValueError: There are not two references.
    """
    rows = [np.flatnonzero(references == name) for name in np.unique(references)]
    if len(rows) < 2:
        raise ValueError(f"{len(rows)} reference images: an interval over references needs at least 2.")
    generator = np.random.default_rng(seed)
    values = np.atleast_1d(statistic(np.arange(len(references))))
    drawn = [generator.integers(len(rows), size=len(rows)) for _ in range(resamples)]
    found = np.array([np.atleast_1d(statistic(np.concatenate([rows[i] for i in draw]))) for draw in drawn])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that no resample has
        if resamples:
            found = found - np.nanmean(found, axis=0) + values
        ends = np.nanpercentile(found, [2.5, 97.5], axis=0) if resamples else np.stack([values, values])
    return [Interval(*map(float, three)) for three in zip(values, *ends, strict=True)]


def within_one(interval: Interval) -> Interval:
    """Cuts an interval of a correlation to [-1, 1]."""
    return Interval(interval.value, max(interval.low, -1.0), min(interval.high, 1.0))


def rank_correlations(distance: np.ndarray, rating: np.ndarray, scales: np.ndarray, kendall: bool = True) -> np.ndarray:
    """Spearman's and, if wanted, Kendall's coefficient, each the mean over scales; not a number without any order."""
    try:
        from scipy.stats import kendalltau, rankdata
    except ModuleNotFoundError as error:
        message = "Rank correlations need SciPy, which is not installed: install ndpp-dense[pretrain]."
        raise ModuleNotFoundError(message, name="scipy") from error
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of resamples without any order
        for scale in np.unique(scales):
            x, y = distance[scales == scale], rating[scales == scale]
            found.append((np.corrcoef(rankdata(x), rankdata(y))[0, 1], *([kendalltau(x, y)[0]] if kendall else [])))
        return np.nanmean(np.array(found, dtype=float), axis=0)
