"""How well each image was predicted, to show the best and the worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ndpp_dense.integrations.detectron2.pictures import Instance

__all__ = ["f1_of_image", "rank_images"]

_MATCHING = 0.5  # IoU of boxes
_XYXY_TO_XYWH = np.array([[1, 0, -1, 0], [0, 1, 0, -1], [0, 0, 1, 0], [0, 0, 0, 1]], float)


def rank_images(
    truths: Mapping[Any, Sequence[Instance]], found: Mapping[Any, Sequence[Instance]], count: int
) -> tuple[list[tuple[Any, float]], list[tuple[Any, float]]]:
    """The images with the lowest and the highest F1, each with it; none is in both.

    Args:
        truths: Objects by image; images without objects and without predictions are not ranked.
        found: Predictions by image.
        count: How many of each.

    Returns:
        The worst, the worst first, and the best, the best first.
    """
    shown = [image for image in truths if truths[image] or found.get(image)]
    scores = {image: f1_of_image(truths[image], found.get(image, [])) for image in shown}
    order = sorted(shown, key=lambda image: (scores[image], -len(truths[image])))
    worst = order[: min(count, (len(order) + 1) // 2)]
    # Of equally good ones those with the most objects: they tell more.
    best = sorted((i for i in order[len(worst) :] if truths[i]), key=lambda i: (-scores[i], -len(truths[i])))[:count]
    return [(image, scores[image]) for image in worst], [(image, scores[image]) for image in best]


def f1_of_image(truths: Sequence[Instance], found: Sequence[Instance]) -> float:
    """Share of objects and predictions that match, 0 to 1: same category, boxes with an IoU of at least 0.5.

    Args:
        truths: Objects.
        found: Predictions; the one with the highest score takes its object first.
    """
    matched = 0
    for category in {instance.category for instance in truths}:
        own = [instance for instance in truths if instance.category == category]
        tried = [instance for instance in found if instance.category == category]
        matched += _matches(own, sorted(tried, key=lambda instance: -(instance.score or 0.0)))
    total = len(truths) + len(found)
    return 2 * matched / total if total else 1.0


def _matches(truths: Sequence[Instance], found: Sequence[Instance]) -> int:
    from pycocotools import mask

    if not truths or not found:
        return 0
    found_boxes, true_boxes = (np.array([one.box for one in side], float) @ _XYXY_TO_XYWH for side in (found, truths))
    free: Any = mask.iou(found_boxes, true_boxes, [0] * len(truths))
    count = 0
    for row in free:
        best = int(row.argmax())
        if row[best] >= _MATCHING:
            free[:, best] = 0
            count += 1
    return count
