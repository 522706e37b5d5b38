"""Which images of an evaluation were predicted best and worst."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmseg.evaluation import IoUMetric

__all__ = ["Ranking"]

_KEPT = 4  # of the worst, and of the best


class Ranking:
    """Keeps the best and the worst images while an evaluation goes through them.

    Attributes:
        worst: Pairs of mIoU (0 to 100, over the classes that an image has) and sample, the worst first.
        best: Likewise, the best first.
    """

    def __init__(self) -> None:
        self.worst: list[tuple[float, Any]] = []
        self.best: list[tuple[float, Any]] = []

    def add(self, evaluator: Any, outputs: Sequence[Any]) -> None:
        """Looks at the images of a batch that were evaluated last.

        Args:
            evaluator: MMEngine's; its ``IoUMetric``, if it has one, has added up the areas of each image already.
            outputs: The ``SegDataSample`` of each.
        """
        metric = next((found for found in evaluator.metrics if isinstance(found, IoUMetric)), None)
        if metric is None or len(metric.results) < len(outputs) or not outputs:
            return
        for sample, (intersection, union, _, label) in zip(outputs, metric.results[-len(outputs) :], strict=True):
            present = label > 0
            if present.any():
                self._place(100 * float((intersection[present] / union[present]).mean()), sample)

    def split(self) -> dict[str, list[tuple[float, Any]]]:
        """``worst`` and ``best``; no image is in both, though there are few."""
        shown = {id(sample) for _, sample in self.worst}
        best = [pair for pair in self.best if id(pair[1]) not in shown]
        while len(self.worst) > len(best) + 1 and self.worst[-1] in self.best:
            best.append(self.worst.pop())
        return {"worst": self.worst, "best": best}

    def _place(self, score: float, sample: Any) -> None:
        for kept, sign in ((self.worst, 1), (self.best, -1)):
            kept.append((score, sample))
            kept.sort(key=lambda pair: sign * pair[0])
            del kept[_KEPT:]
