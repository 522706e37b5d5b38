"""Detection: do the boxes move with the picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndpp_dense.robustness.shift.borders import visible_part
from ndpp_dense.robustness.shift.task import Frame, Measure, ratio

__all__ = ["Boxes", "DetectionTask", "box_iou", "match"]

_BINS = 100  # of scores, for average precision
_RECALLS = np.linspace(0, 1, 101)  # where COCO reads precision
_MIN_VISIBLE = 0.5  # share of its area that a box must keep


@dataclass(frozen=True)
class Boxes:
    """Objects of a picture, found or labelled.

    Attributes:
        edges: ``(N, 4)``, left, top, right and bottom in pixels.
        classes: ``(N,)``, class numbers.
        scores: ``(N,)``, in [0, 1]; ones for labels.
    """

    edges: np.ndarray
    classes: np.ndarray
    scores: np.ndarray

    @classmethod
    def labelled(cls, edges: Any, classes: Any) -> Boxes:
        """Objects that are known to be there."""
        edges = np.asarray(edges, dtype=np.float64).reshape(-1, 4)
        return cls(edges, np.asarray(classes, dtype=np.int64).reshape(-1), np.ones(len(edges)))

    def __getitem__(self, chosen: np.ndarray) -> Boxes:
        """Some of them."""
        return Boxes(self.edges[chosen], self.classes[chosen], self.scores[chosen])

    def __len__(self) -> int:
        """Their number."""
        return len(self.edges)


class DetectionTask:
    """Answers and targets are :class:`Boxes`.

    ``AP50`` is average precision at IoU 0.5 as COCO reads it, of all classes ranked together, over the moved labels.
    ``agreement`` is the share of boxes, of the answer and of the moved answer to the picture as it is, that find a
    partner of their class with an IoU of at least 0.5 in the other (the Dice coefficient), and ``overlap`` the mean IoU
    of these pairs. Boxes are cut at the border of the picture; those that lose more than half of their area are left
    out, on both sides.

    Args:
        score: Boxes below it do not count for agreement and overlap, in [0, 1].
    """

    name = "detection"

    def __init__(self, score: float = 0.5) -> None:
        if not 0 <= score <= 1:
            raise ValueError(f"score = {score}: it must be between 0 and 1.")
        self.score = score
        self.measures = (
            Measure("AP50", 2 * _BINS + 1, average_precision, needs_target=True),
            Measure("agreement", 2, ratio),
            Measure("overlap", 2, ratio),
        )

    def check(self, answer: Any) -> str:
        """What is wrong with boxes."""
        if not isinstance(answer, Boxes):
            return f"the answer is a {type(answer).__name__}, not Boxes"
        finite = np.isfinite(answer.edges).all() and np.isfinite(answer.scores).all()
        return "" if finite else "boxes or scores are not finite"

    def move(self, answer: Boxes, frame: Frame) -> Boxes:
        """The boxes, moved; around the frame with circular borders."""
        down, right = frame.shift
        edges = answer.edges + np.array([right, down, right, down])
        if frame.border == "circular":
            height, width = frame.size
            centres = (edges[:, :2] + edges[:, 2:]) / 2
            turns = -np.floor(centres / np.array([width, height])) * np.array([width, height])
            edges = edges + np.tile(turns, 2)
        return self.crop(Boxes(edges, answer.classes, answer.scores), frame)

    def crop(self, answer: Boxes, frame: Frame) -> Boxes:
        """The boxes cut at the border of the picture, without those that lose more than half."""
        top, left, bottom, right = visible_part(frame.size, frame.shift, frame.border)
        cut = np.clip(answer.edges, [left, top, left, top], [right, bottom, right, bottom])
        kept = _areas(cut) >= _MIN_VISIBLE * np.maximum(_areas(answer.edges), 1e-9)
        return Boxes(cut, answer.classes, answer.scores)[kept]

    def counts(self, answer: Boxes, reference: Boxes, target: Boxes | None) -> Mapping[str, np.ndarray]:
        """Pairs, and for average precision hits and misses by score and the number of objects."""
        sure, sure_before = (boxes[boxes.scores >= self.score] for boxes in (answer, reference))
        overlaps = match(sure, sure_before)
        pairs = np.sum(overlaps > 0)
        found = {
            "agreement": np.array([2 * pairs, len(sure) + len(sure_before)], dtype=np.float64),
            "overlap": np.array([overlaps.sum(), pairs], dtype=np.float64),
        }
        if target is not None:
            hit = match(answer, target) > 0
            bins = np.clip((answer.scores * _BINS).astype(np.int64), 0, _BINS - 1)
            counted = [np.bincount(bins[chosen], minlength=_BINS) for chosen in (hit, ~hit)]
            found["AP50"] = np.concatenate([*counted, [len(target)]]).astype(np.float64)
        return found


def match(found: Boxes, wanted: Boxes, least: float = 0.5) -> np.ndarray:
    """Pairs boxes of a class, the surest first, each with the one it overlaps most of those that are left.

    Args:
        found: N boxes.
        wanted: M boxes.
        least: Smallest IoU of a pair.

    Returns:
        ``(N,)``, the IoU of each box with its partner; 0 for those without one.
    """
    overlaps = box_iou(found.edges, wanted.edges)
    overlaps[found.classes[:, None] != wanted.classes[None, :]] = 0
    result = np.zeros(len(found))
    for number in np.argsort(-found.scores, kind="stable"):
        partner = int(overlaps[number].argmax()) if len(wanted) else -1
        if partner >= 0 and overlaps[number, partner] >= least:
            result[number] = overlaps[number, partner]
            overlaps[:, partner] = 0
    return result


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union ``(N, M)`` of boxes ``(N, 4)`` and ``(M, 4)``."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(-1)
    either = _areas(first)[:, None] + _areas(second)[None, :] - both
    return both / np.maximum(either, 1e-9)


def average_precision(sums: np.ndarray) -> np.ndarray:
    """From hits and misses by score, low to high, and the number of objects, to the mean precision over recalls.

    Args:
        sums: ``(..., 201)``. Scores within a hundredth count as equal.
    """
    hits, misses, objects = sums[..., :_BINS], sums[..., _BINS:-1], sums[..., -1:]
    hits, misses = (np.cumsum(values[..., ::-1], axis=-1) for values in (hits, misses))
    with np.errstate(divide="ignore", invalid="ignore"):
        recall, precision = hits / objects, hits / np.maximum(hits + misses, 1e-9)
    best = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]  # at this recall or a higher one
    # The first bin that reaches a recall; none does where recalls end below it.
    reached = np.stack([np.sum(recall < level - 1e-12, axis=-1) for level in _RECALLS], axis=-1)
    padded = np.concatenate([best, np.zeros((*best.shape[:-1], 1))], axis=-1)
    mean = np.take_along_axis(padded, reached, axis=-1).mean(-1)
    return np.where(objects[..., 0] > 0, mean, np.nan)


def _areas(edges: np.ndarray) -> np.ndarray:
    return np.clip(edges[:, 2:] - edges[:, :2], 0, None).prod(-1)
