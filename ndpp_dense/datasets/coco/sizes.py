"""How large objects and images of a set are, and the settings of a detector that fit them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Fit", "Sizes", "measure_sizes"]

QUANTILES = (0.05, 0.5, 0.95)
LEVELS_OF_ANCHORS = (4, 8, 16, 32)  # smallest sides of a pyramid's anchors, in pixels
EPOCHS, LEAST_STEPS = 24, 500  # of fine-tuning: few images are seen more often
PARTS = 5  # evaluations of a run


@dataclass(frozen=True)
class Sizes:
    """What a detector's sizes depend on.

    Attributes:
        images: How many have objects.
        short_side: Of the images, median, in pixels.
        long_side: Likewise.
        object_sides: Square roots of the areas of boxes over the short side of their image; quantiles 5, 50, 95%.
        most_objects: In an image.
    """

    images: int
    short_side: float
    long_side: float
    object_sides: tuple[float, float, float]
    most_objects: int

    def fit(self, settings: Fit) -> dict[str, tuple[Any, str]]:
        """Settings that should be others, by name of the field, each with the value and the reason.

        Args:
            settings: As they are.
        """
        found: dict[str, tuple[Any, str]] = {}
        side = self._resized(settings)
        small, middle, large = (side * share for share in self.object_sides)
        first = max([level for level in LEVELS_OF_ANCHORS if level <= small], default=LEVELS_OF_ANCHORS[0])
        anchors = [[first << level] for level in range(len(settings.anchors))]
        if settings.anchors and first < settings.anchors[0][0]:
            reason = f"objects are {small:.0f}, {middle:.0f} and {large:.0f} pixels wide (5, 50, 95%) at this size"
            found["anchors"] = (anchors, reason)
        if self.most_objects > settings.detections:
            wanted = 100 * math.ceil(self.most_objects / 100)
            found["detections"] = (wanted, f"an image has {self.most_objects} objects")
        steps = max(LEAST_STEPS, EPOCHS * math.ceil(self.images / settings.batch))
        if steps < settings.steps:
            epochs = steps * settings.batch / self.images
            found["steps"] = (
                steps,
                f"{self.images} images are seen {epochs:.0f} times, in batches of {settings.batch}",
            )
        return found

    def _resized(self, settings: Fit) -> float:
        """Short side of the median image as the detector sees it."""
        return min(settings.short_side, settings.long_side * self.short_side / self.long_side)


@dataclass(frozen=True)
class Fit:
    """Settings of a detector that depend on the data.

    Attributes:
        short_side: To which images are resized, in pixels.
        long_side: That they may have at most.
        anchors: Their sides by level of the pyramid.
        detections: Kept of an image.
        batch: Images of a step.
        steps: Of the run.
    """

    short_side: float
    long_side: float
    anchors: Sequence[Sequence[float]]
    detections: int
    batch: int
    steps: int


def measure_sizes(document: Mapping[str, Any]) -> Sizes:
    """Measures a valid COCO document; crowds do not count.

    Args:
        document: With at least one image.
    """
    sides = {image["id"]: sorted((image["height"], image["width"])) for image in document["images"]}
    short, long = np.median(np.array([*sides.values()], dtype=np.float64), axis=0)
    objects = [entry for entry in document["annotations"] if not entry.get("iscrowd")]
    relative = [math.sqrt(max(0.0, e["bbox"][2] * e["bbox"][3])) / sides[e["image_id"]][0] for e in objects] or [1.0]
    low, middle, high = np.quantile(relative, QUANTILES)
    counts = Counter(entry["image_id"] for entry in objects)
    return Sizes(
        len(counts),
        float(short),
        float(long),
        (float(low), float(middle), float(high)),
        max(counts.values(), default=0),
    )
