"""Segmentation: does the label map move with the picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ndpp_dense.robustness.shift.borders import translate, visible_part
from ndpp_dense.robustness.shift.task import Frame, Measure, ratio

__all__ = ["UNLABELLED", "SegmentationTask"]

UNLABELLED = -1  # pixels that are not counted: of no class, or from beyond the border


class SegmentationTask:
    """Answers and targets are label maps ``(H, W)`` of class numbers, ``UNLABELLED`` where nothing is to be counted.

    ``mIoU`` is the mean over classes of intersection over union with the moved target, ``agreement`` the share of
    pixels with the same label as in the moved answer to the picture as it is. Pixels that came in at the border are not
    counted; circular borders have none.

    Args:
        num_classes: Classes, >= 1.
    """

    name = "segmentation"

    def __init__(self, num_classes: int) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes = {num_classes}: it must be at least 1.")
        self.num_classes = num_classes
        self.measures = (Measure("mIoU", 2 * num_classes, mean_iou, needs_target=True), Measure("agreement", 2, ratio))

    def check(self, answer: Any) -> str:
        """What is wrong with a label map."""
        labels = np.asarray(answer)
        if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
            return f"the answer has the shape {labels.shape} of {labels.dtype}, label maps have (H, W) of integers"
        if labels.size and labels.max() >= self.num_classes:
            return f"the answer holds the class {labels.max()} of {self.num_classes}"
        return ""

    def move(self, answer: Any, frame: Frame) -> Any:
        """The labels, moved; ``UNLABELLED`` beyond the picture."""
        moved = translate(torch.as_tensor(np.asarray(answer)), frame.shift, frame.border).numpy()
        return self.crop(moved, frame)

    def crop(self, answer: Any, frame: Frame) -> Any:
        """``UNLABELLED`` beyond the picture."""
        top, left, bottom, right = visible_part(frame.size, frame.shift, frame.border)
        kept = np.full_like(answer, UNLABELLED)
        kept[top:bottom, left:right] = answer[top:bottom, left:right]
        return kept

    def counts(self, answer: Any, reference: Any, target: Any) -> Mapping[str, np.ndarray]:
        """Pixels that agree and pixels that count; intersections and unions of all classes."""
        seen = reference != UNLABELLED
        found = {"agreement": np.array([np.sum((answer == reference) & seen), seen.sum()], dtype=np.float64)}
        if target is not None:
            labelled = target != UNLABELLED
            right, given = target[labelled], answer[labelled]
            of = self.num_classes
            both = np.bincount(right[right == given], minlength=of)[:of]
            either = np.bincount(right, minlength=of)[:of] + np.bincount(given[given >= 0], minlength=of)[:of] - both
            found["mIoU"] = np.concatenate([both, either]).astype(np.float64)
        return found


def mean_iou(sums: np.ndarray) -> np.ndarray:
    """From intersections and unions ``(..., 2 * classes)`` to the mean over the classes that occur."""
    both, either = np.split(sums, 2, axis=-1)
    there = either > 0
    with np.errstate(invalid="ignore"):
        shares = np.where(there, both / np.where(there, either, 1), 0).sum(-1)
        return np.where(there.any(-1), shares / np.maximum(there.sum(-1), 1), np.nan)
