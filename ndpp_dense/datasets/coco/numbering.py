"""Ids that pycocotools takes for what they are not."""

from __future__ import annotations

import contextlib
import io
from typing import Any

__all__ = ["renumber_annotations"]


def renumber_annotations(ground_truth: Any) -> bool:
    """Numbers annotations from 1 where one has another id than a whole number above 0.

    pycocotools keeps the id of the matched annotation for each detection, in an array of numbers, and reads 0 as "not
    matched": an object whose id is 0 is never found, and its detection counts as false.

    Args:
        ground_truth: `pycocotools.coco.COCO`, changed in place.

    Returns:
        Whether anything was changed.
    """
    annotations = ground_truth.dataset.get("annotations", [])
    if all(type(entry["id"]) is int and entry["id"] > 0 for entry in annotations):
        return False
    for number, entry in enumerate(annotations, 1):
        entry["id"] = number
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth.createIndex()
    return True
