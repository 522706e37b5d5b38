"""Boxes and areas of a COCO file: what they say, and what they look like."""

from __future__ import annotations

from typing import Any

import numpy as np

from ndpp_dense.datasets.coco.document import is_number
from ndpp_dense.datasets.coco.report import Report

__all__ = ["check_areas", "check_boxes", "left_out_by_training", "read_boxes"]

_MOST, _FEW = 0.95, 0.05  # shares of the boxes that tell a habit from a slip
_MARGIN = 0.05  # of an image's size, and 2 pixels: annotators overshoot
_LEAST_AREA, _MOST_AREA = 0.01, 1.1  # of the box
_LARGEST = 1e15  # coordinate that is computed with
_LARGEST_COUNTED = 1e10  # COCO evaluation leaves larger objects out


def left_out_by_training(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Which objects training drops by itself: flat boxes, and boxes beside their image.

    Args:
        boxes: (N, 4), XYWH in pixels.
        sizes: (N, 2), width and height of each one's image.

    Returns:
        (N,) bool.
    """
    flat = (boxes[:, 2:] == 0).any(1)
    return flat | _beside(boxes, sizes)


def read_boxes(annotations: list[dict[str, Any]]) -> np.ndarray:
    """The boxes, (N, 4) XYWH; NaN where there is none of four finite numbers."""
    return np.array([entry["bbox"] if _is_box(entry["bbox"]) else [np.nan] * 4 for entry in annotations], dtype=float)


def check_boxes(
    boxes: np.ndarray, ids: np.ndarray, sizes: np.ndarray, extents: np.ndarray, report: Report, *, evaluated: bool
) -> None:
    """Checks boxes by themselves, against their images and against their polygons.

    Args:
        boxes: (N, 4), XYWH; NaN where there is none.
        ids: (N,), of the annotations.
        sizes: (N, 2), width and height of each one's image.
        extents: (N, 4), XYXY of its polygons; NaN where it has none.
        report: Gets what is wrong.
        evaluated: Whether COCO evaluation reads them.
    """
    bad = ~np.isfinite(boxes).all(1) | (boxes[:, 2:] < 0).any(1)
    flat = (boxes[:, 2:] == 0).any(1)
    beside = _beside(boxes, sizes)
    count = len(boxes)
    head = f"{{count}} of {count} annotations have a 'bbox' that is not [x, y, width, height] with positive width and "
    head += "height"
    report.fault(ids[bad | flat] if evaluated else ids[bad], f"{head}; correct or remove them")
    text = f"{{count}} of {count} boxes lie wholly beside their image"
    if evaluated or beside.sum() > _FEW * count:
        report.fault(ids[beside], f"{text}; correct or remove them")
    else:
        report.warn(ids[beside], f"{text} and are not trained on")
    if not evaluated:
        if flat.sum() > _FEW * count:
            report.fault(ids[flat], f"{head}; correct or remove them")
        else:
            report.warn(ids[flat], f"{{count}} of {count} boxes have no width or no height and are not trained on")
    usable = ~bad & ~flat & ~beside
    _check_units(boxes, sizes, extents, ids, usable, report)


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(map(_is_plain, box))


def _is_plain(value: Any) -> bool:
    return is_number(value) and abs(value) < _LARGEST  # neither NaN nor infinite


def _beside(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    outside = (boxes[:, :2] >= sizes) | (boxes[:, :2] + boxes[:, 2:] <= 0)
    return np.asarray(outside.any(1) & (boxes[:, 2:] > 0).all(1))


def _check_units(
    boxes: np.ndarray, sizes: np.ndarray, extents: np.ndarray, ids: np.ndarray, usable: np.ndarray, report: Report
) -> None:
    """Tells pixels from shares of the image, and width and height from a second corner."""
    count = max(1, int(usable.sum()))
    shares = usable & (np.abs(boxes) <= 1).all(1) & (sizes > 4).all(1)
    text = f"{{count}} of {len(boxes)} boxes lie within 1 pixel"
    if shares.sum() > _FEW * count:
        report.fault(ids[shares], f"{text}: coordinates look normalised to 0..1; multiply them by width and height")
        return
    report.warn(ids[shares], f"{text}")
    margin = np.maximum(2.0, _MARGIN * sizes)
    ends = boxes[:, :2] + boxes[:, 2:]
    beyond = usable & ((boxes[:, :2] < -margin) | (ends > sizes + margin)).any(1)
    corners = usable & (boxes[:, 2:] > boxes[:, :2]).all(1) & (boxes[:, 2:] <= sizes + 1).all(1)
    with_polygons = usable & np.isfinite(extents).all(1)
    tolerance = np.maximum(2.0, 0.25 * boxes[:, 2:].max(1, initial=0))[:, None]
    wrong = with_polygons & (np.abs(np.hstack([boxes[:, :2], ends]) - extents) > tolerance).any(1)
    as_corners = wrong & (np.abs(boxes - extents) <= np.maximum(2.0, margin[:, [0, 1, 0, 1]])).all(1)
    if corners.sum() >= _MOST * count and beyond.sum() > 2 * _FEW * count or as_corners.sum() > _FEW * count:
        found = as_corners if as_corners.any() else beyond
        text = f"{{count}} of {len(boxes)} boxes fit their image or polygons only as corners [x1, y1, x2, y2]"
        report.fault(ids[found], f"{text}; write [x, y, width, height]")
        return
    far = usable & ((boxes[:, :2] < -sizes) | (ends > 2 * sizes)).any(1)
    text = f"{{count}} of {len(boxes)} boxes reach beyond their image by more than its size"
    report.fault(ids[far], f"{text}; correct or remove them")
    text = f"{{count}} of {len(boxes)} boxes reach beyond their image by more than {_MARGIN:.0%} of it and are clipped"
    report.warn(ids[beyond & ~far], text)
    text = (
        f"{{count}} of {int(with_polygons.sum())} boxes differ from the extent of their polygons by more than a quarter"
    )
    report.warn(ids[wrong & ~beyond], text)


def check_areas(annotations: list[dict[str, Any]], boxes: np.ndarray, report: Report) -> None:
    """Checks what COCO evaluation tells small, medium and large objects by.

    Args:
        annotations: With `area`.
        boxes: (N, 4), XYWH; NaN where there is none.
        report: Gets what is wrong.
    """
    ids = np.array([entry["id"] for entry in annotations])
    areas = np.array([entry["area"] if _is_plain(entry["area"]) else np.nan for entry in annotations], dtype=float)
    bad = ~((areas >= 0) & (areas < _LARGEST_COUNTED))  # NaN too
    text = f"{{count}} of {len(ids)} annotations have an 'area' that is not a number of pixels, 0 or more"
    report.fault(ids[bad], f"{text}; write the area of the mask, or of the box")
    crowds = np.array([bool(entry["iscrowd"]) for entry in annotations])
    of_box = boxes[:, 2] * boxes[:, 3]
    odd = ~bad & ~crowds & ((areas < _LEAST_AREA * of_box) | (areas > _MOST_AREA * of_box + 4))
    text = f"{{count}} of {len(ids)} areas are under {_LEAST_AREA:.0%} or over {_MOST_AREA:.0%} of their box"
    report.warn(ids[odd], f"{text}; AP of small, medium and large objects goes by them")
