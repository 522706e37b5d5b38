"""A small COCO file, whole, and its images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

POLYGON = [[1.0, 1.0, 5.0, 1.0, 5.0, 5.0]]


@pytest.fixture
def document() -> dict:
    box = {"bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 10, "width": 10} for i in (1, 2)],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "segmentation": POLYGON, **box},
            {"id": 2, "image_id": 2, "category_id": 3, "segmentation": POLYGON, **box},
        ],
        "categories": [{"id": 7, "name": "cell"}, {"id": 3, "name": "debris"}],
    }


@pytest.fixture
def write():
    """Returns a function that writes a document; it returns the paths of the file and of the images."""
    return _write


def _write(folder: Path, document: object) -> tuple[Path, Path]:
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for name in ("1.png", "2.png"):
        (images / name).touch()
    path = folder / "set.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path, images
