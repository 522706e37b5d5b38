"""How much is lost by shifting: the curve, the loss relative to no shift, the worst shift, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ndpp_dense.robustness.shift.task import Measure

__all__ = ["ShiftResult", "ShiftSummary"]

_CHUNK = 20_000_000  # sums of resampled images that are held at once


@dataclass(frozen=True)
class ShiftSummary:
    """A measure in a few numbers; shares of 1, NaN where there is nothing to divide by.

    Attributes:
        at_zero: The figure without shift.
        mean_loss: Mean over all other shifts of ``1 - A(s) / A(0)``.
        mean_loss_interval: Its 95 % bootstrap interval over images.
        worst_loss: The largest of these losses.
        worst_shift: Where that is, rows down and columns to the right.
        lowest: The figure there.
    """

    at_zero: float
    mean_loss: float
    mean_loss_interval: tuple[float, float]
    worst_loss: float
    worst_shift: tuple[int, int]
    lowest: float


@dataclass(frozen=True)
class ShiftResult:
    """What :func:`ndpp_dense.robustness.shift.measure_shifts` has counted.

    Attributes:
        name: Of the subject.
        shifts: ``(S, 2)``, rows down and columns to the right; the first is ``(0, 0)``.
        measures: That were counted.
        counts: By measure, ``(S, N, 2, size)`` for N images: of the answer at the shift, and of the answer without
            shift, moved. In classification the latter is the same at every shift; boxes and labels leave the frame.
        border: What came in at the border.
        stride: Of the network, in pixels.
    """

    name: str
    shifts: np.ndarray
    measures: tuple[Measure, ...]
    counts: dict[str, np.ndarray]
    border: str
    stride: int = 32

    @property
    def num_images(self) -> int:
        """Number of images."""
        return next(iter(self.counts.values())).shape[1]

    def measure(self, name: str) -> Measure:
        """A measure by name.

        Raises:
            ValueError: It was not counted; says which were.
        """
        found = next((measure for measure in self.measures if measure.name == name), None)
        if found is None:
            raise ValueError(f"no measure {name!r} was counted, only {', '.join(m.name for m in self.measures)}.")
        return found

    def values(self, name: str) -> np.ndarray:
        """``(S,)``, A(s): the figure at each shift."""
        return self.measure(name).value(self.counts[name][:, :, 0].sum(1, dtype=np.float64))

    def references(self, name: str) -> np.ndarray:
        """``(S,)``, A(0) of what is still in the frame at each shift."""
        return self.measure(name).value(self.counts[name][:, :, 1].sum(1, dtype=np.float64))

    def losses(self, name: str) -> np.ndarray:
        """``(S,)``, ``1 - A(s) / A(0)`` at each shift, 0 at the first; below 0 where a shift helps."""
        return _losses(self.values(name), self.references(name))

    def summary(self, name: str, resamples: int = 1000, seed: int = 0) -> ShiftSummary:
        """A measure in a few numbers.

        Args:
            name: Of the measure.
            resamples: Draws of images, with replacement, for the interval; >= 1.
            seed: Of the draws.
        """
        values, losses = self.values(name), self.losses(name)
        drawn = self._bootstrap(name, resamples, seed, lambda a, b: np.mean(_losses(a, b)[:, 1:], axis=1))
        low, high = _interval(drawn)
        unknown = np.isnan(losses[1:]).any()
        worst = int(np.argmax(losses[1:])) + 1 if not unknown else 0
        return ShiftSummary(
            at_zero=float(values[0]),
            mean_loss=float(losses[1:].mean()),
            mean_loss_interval=(float(low), float(high)),
            worst_loss=float("nan") if unknown else float(losses[worst]),
            worst_shift=(int(self.shifts[worst, 0]), int(self.shifts[worst, 1])),
            lowest=float("nan") if unknown else float(values[worst]),
        )

    def intervals(self, name: str, resamples: int = 300, seed: int = 0) -> np.ndarray:
        """``(2, S)``, the 95 % bootstrap interval over images of the figure at each shift."""
        return _interval(self._bootstrap(name, resamples, seed, lambda values, _: values))

    def along(self, axis: str) -> tuple[np.ndarray, np.ndarray]:
        """The shifts along an axis.

        Args:
            axis: ``"x"`` (columns to the right) or ``"y"`` (rows down).

        Returns:
            Pixels in order, and which of the shifts they are; both empty where only 0 was measured.
        """
        column = {"y": 0, "x": 1}[axis]
        chosen = np.flatnonzero(self.shifts[:, 1 - column] == 0)
        chosen = chosen[np.argsort(self.shifts[chosen, column])]
        return (self.shifts[chosen, column], chosen) if len(chosen) > 1 else (np.array([], int), np.array([], int))

    def plane(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """The figure over both axes.

        Returns:
            Rows down, columns to the right, and the figure at each pair; None unless every pair was measured.
        """
        downs, rights = np.unique(self.shifts[:, 0]), np.unique(self.shifts[:, 1])
        if min(len(downs), len(rights)) < 2 or len(downs) * len(rights) != len(self.shifts):
            return None
        order = np.lexsort((self.shifts[:, 1], self.shifts[:, 0]))
        return downs, rights, self.values(name)[order].reshape(len(downs), len(rights))

    def _bootstrap(
        self, name: str, resamples: int, seed: int, statistic: Callable[[np.ndarray, np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """A statistic of values and references, both ``(draws, S)``, for each draw of images."""
        counts = self.counts[name].astype(np.float64)
        shifts, images, _, size = counts.shape
        rows = counts.transpose(1, 0, 2, 3).reshape(images, -1)
        generator, value, found = np.random.default_rng(seed), self.measure(name).value, []
        at_once = max(1, _CHUNK // rows.shape[1])
        for start in range(0, resamples, at_once):
            draws = min(at_once, resamples - start)
            weights = generator.multinomial(images, np.full(images, 1 / images), size=draws).astype(np.float64)
            sums = (weights @ rows).reshape(draws, shifts, 2, size)
            found.append(statistic(value(sums[:, :, 0]), value(sums[:, :, 1])))
        return np.concatenate(found)


def _losses(values: np.ndarray, references: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(references > 0, 1 - values / references, np.nan)


def _interval(drawn: np.ndarray) -> np.ndarray:
    """The middle 95 % of each column; draws in which nothing can be divided by are left out."""
    missing = np.isnan(drawn).all(0)
    low, high = np.nanquantile(np.where(missing, 0, drawn), [0.025, 0.975], axis=0)
    return np.stack([np.where(missing, np.nan, low), np.where(missing, np.nan, high)])
