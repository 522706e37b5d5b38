"""Classification: is the class of the moved picture right, is it the same, and how sure is the network of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ndpp_dense.robustness.shift.task import Frame, Measure, ratio

__all__ = ["ClassificationTask"]


class ClassificationTask:
    """Answers are class scores ``(classes,)`` before the softmax, targets class numbers.

    ``accuracy`` is the share of right classes, ``agreement`` that of classes that are the same as without shift, and
    ``confidence`` the mean probability of the class that is answered without shift, which moves before answers do.
    """

    name = "classification"

    def __init__(self) -> None:
        self.measures = (
            Measure("accuracy", 2, ratio, needs_target=True),
            Measure("agreement", 2, ratio),
            Measure("confidence", 2, ratio),
        )

    def check(self, answer: Any) -> str:
        """What is wrong with class scores."""
        scores = np.asarray(answer)
        if scores.ndim != 1 or not len(scores):
            return f"the answer has the shape {scores.shape}, class scores have (classes,)"
        return "" if np.isfinite(scores).all() else f"{np.sum(~np.isfinite(scores))} class scores are not finite"

    def move(self, answer: Any, frame: Frame) -> Any:
        """A class does not move."""
        return answer

    def crop(self, answer: Any, frame: Frame) -> Any:
        """A class is of the picture as a whole."""
        return answer

    def counts(self, answer: Any, reference: Any, target: Any) -> Mapping[str, np.ndarray]:
        """Hits and ones."""
        scores, first = np.asarray(answer, dtype=np.float64), int(np.argmax(reference))
        shares = np.exp(scores - scores.max())
        found = {"agreement": float(scores.argmax() == first), "confidence": shares[first] / shares.sum()}
        if target is not None:
            found["accuracy"] = float(scores.argmax() == target)
        return {name: np.array([value, 1.0]) for name, value in found.items()}
