"""Keypoints of a COCO file: as many as their category names, each with whether it is seen."""

from __future__ import annotations

from typing import Any

from ndpp_dense.datasets.coco.document import is_number
from ndpp_dense.datasets.coco.report import Report

__all__ = ["check_keypoints", "keypoint_names"]

_LARGEST = 1e15


def keypoint_names(categories: list[dict[str, Any]]) -> tuple[str, ...]:
    """The names of a person's keypoints, or of what else has some; empty where no category names any."""
    named = (category["keypoints"] for category in categories if isinstance(category.get("keypoints"), list))
    return tuple(map(str, next(filter(None, named), ())))


def check_keypoints(document: dict[str, Any], report: Report, *, needed: bool, evaluated: bool) -> None:
    """Checks all keypoints that there are, and whether there are all that are needed.

    Args:
        document: Checked by `check_document`.
        report: Gets what is wrong.
        needed: Whether the model predicts keypoints.
        evaluated: Whether COCO evaluation reads them.
    """
    annotations = document["annotations"]
    having = [entry for entry in annotations if "keypoints" in entry]
    if needed:
        lacking = [entry["id"] for entry in annotations if "keypoints" not in entry and not entry.get("iscrowd")]
        text = f"{{count}} of {len(annotations)} annotations have no 'keypoints', and the model predicts them "
        report.fault(lacking, f"{text}(MODEL.KEYPOINT_ON is True): set it False, or add them")
        if evaluated:
            lacking = [entry["id"] for entry in having if "num_keypoints" not in entry]
            report.fault(lacking, "{count} annotations have no 'num_keypoints', which COCO evaluation reads; add it")
    known = {category["id"]: category.get("keypoints") for category in document["categories"]}
    faults: dict[str, list[Any]] = {"length": [], "numbers": [], "seen": [], "count": []}
    for entry in having:
        names = known[entry["category_id"]]
        kind = _fault(entry, len(names) if isinstance(names, list) else None)
        if kind:
            faults[kind].append(entry["id"])
    texts = {
        "length": "whose 'keypoints' are not [x, y, v, ...] with as many as their category names",
        "numbers": "with keypoints of other things than finite numbers",
        "seen": "with keypoints whose third number is not 0 (not labelled), 1 (hidden) or 2 (seen)",
        "count": "whose 'num_keypoints' is not the number of keypoints that are labelled",
    }
    for kind, ids in faults.items():
        report.fault(ids, f"{{count}} of {len(annotations)} annotations {texts[kind]}; correct or remove them")


def _fault(entry: dict[str, Any], count: int | None) -> str:
    points = entry["keypoints"]
    if not isinstance(points, list) or len(points) % 3 or (count is not None and len(points) != 3 * count):
        return "length"
    if not all(is_number(value) and abs(value) < _LARGEST for value in points):
        return "numbers"
    if not set(points[2::3]) <= {0, 1, 2}:
        return "seen"
    labelled = sum(value > 0 for value in points[2::3])
    return "count" if entry.get("num_keypoints", labelled) != labelled else ""
