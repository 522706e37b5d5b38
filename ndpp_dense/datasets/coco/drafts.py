"""A COCO document in the making, from files of another layout."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ndpp_dense.datasets.coco.report import Report
from ndpp_dense.images.reading import upright_size

__all__ = ["Draft"]


class Draft:
    """Collects images, objects, faults and remarks.

    Args:
        subject: The data set and its file, for messages.
        root: Folder that the names of images are relative to.
        categories: Names of the categories, numbered from 1.
    """

    def __init__(self, subject: str, root: Path, categories: Sequence[str]) -> None:
        self.root = root
        self.report = Report(subject)
        self.remarks: list[str] = []
        self.categories = list(categories)
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add_image(self, path: Path) -> dict[str, Any]:
        """Lists an image with the size that it has once it is upright; returns its entry.

        Raises:
            ValueError: It cannot be read.
        """
        width, height = upright_size(path)
        name = Path(os.path.relpath(path, self.root)).as_posix()
        self.images.append({"id": len(self.images) + 1, "file_name": name, "width": width, "height": height})
        return self.images[-1]

    def add_object(
        self,
        image: int,
        category: str,
        box: Sequence[float],
        source: str,
        polygon: Sequence[float] = (),
        crowd: int = 0,
    ) -> None:
        """Lists an object.

        Args:
            image: Id of its image.
            category: Name; a new one is listed.
            box: XYXY in pixels.
            source: The file, and line, that it stands in: people look faults up there.
            polygon: x and y in turn, in pixels; empty where there is none.
            crowd: 1 where evaluation is to ignore it.
        """
        if category not in self.categories:
            self.categories.append(category)
        x, y, right, bottom = box
        entry: dict[str, Any] = {
            "id": len(self.annotations) + 1,
            "image_id": image,
            "category_id": self.categories.index(category) + 1,
            "bbox": [x, y, right - x, bottom - y],
            "area": _area(polygon) if polygon else (right - x) * (bottom - y),
            "iscrowd": crowd,
            "source": source,
        }
        if polygon:
            entry["segmentation"] = [list(polygon)]
        self.annotations.append(entry)

    def remark(self, found: Sequence[Any] | Iterable[Any], text: str) -> None:
        """Keeps a remark, unless nothing was found; the text has `{count}` for how many, and gets the first."""
        listed = [str(value) for value in found]
        if listed:
            shown = ", ".join(listed[:3]) + (", ..." if len(listed) > 3 else "")
            self.remarks.append(f"{self.report.subject}: {text.replace('{count}', str(len(listed)))} (first: {shown})")

    def document(self) -> dict[str, Any]:
        """All of it in COCO's form."""
        categories = [{"id": number, "name": name} for number, name in enumerate(self.categories, 1)]
        return {"images": self.images, "annotations": self.annotations, "categories": categories}

    def number_categories(self, names: Sequence[str]) -> None:
        """Gives categories the numbers of another list, which holds all of them."""
        numbers = [names.index(name) + 1 for name in self.categories]
        for entry in self.annotations:
            entry["category_id"] = numbers[entry["category_id"] - 1]
        self.categories = list(names)


def _area(polygon: Sequence[float]) -> float:
    x, y = np.reshape(np.asarray(polygon, dtype=np.float64), (-1, 2)).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)
