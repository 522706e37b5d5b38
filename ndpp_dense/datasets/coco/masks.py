"""Masks of a COCO file: polygons and run lengths that training and evaluation can use."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from ndpp_dense.datasets.coco.report import Report
from ndpp_dense.datasets.coco.rle import check_counts

__all__ = ["check_masks", "mask_format"]

_FLAT = 1e-6  # square pixels
_LARGEST = 1e15
_FORM = "neither a list of polygons [[x1, y1, x2, y2, x3, y3, ...], ...] nor RLE {'size', 'counts'}"
# Kinds of faults, in the order in which they are told. Far corners would hang pycocotools, broken counts crash it.
_TEXTS = {
    "form": f"whose 'segmentation' is {_FORM}",
    "points": "with a polygon of fewer than 3 points, or an odd number of coordinates; Detectron2 leaves those out",
    "numbers": "with a polygon of other things than finite numbers",
    "far": "with a polygon farther from its image than the image is large",
    "size": "whose RLE has another 'size' than [height, width] of its image",
    "counts": "whose RLE has 'counts' that do not add up to height x width of its image",
    "flat": "whose mask has no area",
}


def check_masks(
    annotations: list[dict[str, Any]],
    sizes: np.ndarray,
    report: Report,
    *,
    needed: bool,
    evaluated: bool,
    left_out: np.ndarray,
) -> np.ndarray:
    """Checks every mask that there is, and whether there are all that are needed.

    Args:
        annotations: Checked by `check_document`.
        sizes: (N, 2), width and height of each one's image.
        report: Gets what is wrong.
        needed: Whether the model predicts masks.
        evaluated: Whether COCO evaluation reads them; it needs those of crowds too.
        left_out: (N,) bool, objects that training leaves out anyway, whose masks may be flat.

    Returns:
        (N, 4), XYXY of each one's polygons; NaN where it has none.
    """
    crowds = np.array([bool(entry.get("iscrowd")) for entry in annotations])
    used = range(len(annotations))  # Detectron2 reads those of crowds too, and then drops them in training
    masks = [entry.get("segmentation") for entry in annotations]
    missing = [number for number, mask in enumerate(masks) if mask is None or mask == []]
    if needed:
        text = f"{{count}} of {len(used)} annotations have no segmentation, and the model predicts masks "
        text += "(MODEL.MASK_ON is True): use a config faster_rcnn_*, or MODEL.MASK_ON False, or add them"
        report.fault([annotations[number]["id"] for number in missing if evaluated or not crowds[number]], text)
    faults: defaultdict[str, set[int]] = defaultdict(set)
    gone = set(missing)
    polygons = [(n, mask) for n, mask in zip(used, masks, strict=True) if isinstance(mask, list) and n not in gone]
    runs = [(n, mask) for n, mask in zip(used, masks, strict=True) if isinstance(mask, dict)]
    known = {n for n, _ in polygons} | {n for n, _ in runs} | gone
    faults["form"] |= {int(number) for number in used if number not in known}
    extents = np.full((len(annotations), 4), np.nan)
    _check_polygons(polygons, sizes, extents, faults)
    _check_runs(runs, sizes, faults)
    faults["flat"] -= set() if evaluated else set(map(int, np.flatnonzero(left_out | crowds)))
    for kind, text in _TEXTS.items():
        found = [annotations[number]["id"] for number in sorted(faults[kind])]
        report.fault(found, f"{{count}} of {len(annotations)} annotations {text}; correct or remove them")
    return extents


def mask_format(annotations: list[dict[str, Any]]) -> str:
    """Detectron2's `INPUT.MASK_FORMAT` for masks: "polygon", "bitmask", "mixed" or "none"."""
    # Detectron2 drops crowds before it looks at masks, and COCO stores those as RLE beside polygons.
    masks = [entry.get("segmentation") for entry in annotations if not entry.get("iscrowd")]
    kinds = {"bitmask" if isinstance(mask, dict) else "polygon" for mask in masks if mask}
    return "mixed" if len(kinds) == 2 else next(iter(kinds), "none")


def _check_polygons(
    masks: Sequence[tuple[int, list[Any]]], sizes: np.ndarray, extents: np.ndarray, faults: defaultdict[str, set[int]]
) -> None:
    owners: list[int] = []
    polygons: list[list[Any]] = []
    for number, mask in masks:
        if not all(isinstance(polygon, list) for polygon in mask):
            faults["form"].add(int(number))
        elif any(len(polygon) < 6 or len(polygon) % 2 for polygon in mask):
            faults["points"].add(int(number))
        else:
            owners += [int(number)] * len(mask)
            polygons += mask
    if not set(map(type, chain.from_iterable(polygons))) <= {int, float}:
        numeric = [all(type(value) in (int, float) for value in polygon) for polygon in polygons]
        faults["numbers"] |= {owner for owner, fits in zip(owners, numeric, strict=True) if not fits}
        polygons = [polygon for polygon, fits in zip(polygons, numeric, strict=True) if fits]
        owners = [owner for owner, fits in zip(owners, numeric, strict=True) if fits]
    if polygons:
        _measure(polygons, np.array(owners), sizes, extents, faults)


def _measure(
    polygons: list[list[Any]], owners: np.ndarray, sizes: np.ndarray, extents: np.ndarray, faults: dict[str, set[int]]
) -> None:
    lengths = np.array([len(polygon) // 2 for polygon in polygons])
    points = _array(polygons).reshape(-1, 2)
    starts = np.cumsum(lengths) - lengths
    owner_of_point = np.repeat(owners, lengths)
    finite = np.asarray(np.isfinite(points).all(1))
    faults["numbers"] |= set(owner_of_point[~finite].tolist())
    limits = sizes[owner_of_point]
    far = finite & ((points < -limits) | (points > 2 * limits)).any(1)
    faults["far"] |= set(owner_of_point[far].tolist())
    points = np.where(np.reshape(finite & ~far, (-1, 1)), points, 0.0)
    following = np.arange(1, len(points) + 1)
    following[starts + lengths - 1] = starts  # the last corner is followed by the first
    x, y = points.T
    areas = np.abs(np.add.reduceat(x * y[following] - x[following] * y, starts)) / 2
    total = np.bincount(owners, areas, len(sizes))
    present = np.unique(owners)
    faults["flat"] |= {int(number) for number in present[total[present] < _FLAT]} - faults["numbers"] - faults["far"]
    low = np.full((len(sizes), 2), np.inf)
    high = np.full((len(sizes), 2), -np.inf)
    np.minimum.at(low, owners, np.minimum.reduceat(points, starts))
    np.maximum.at(high, owners, np.maximum.reduceat(points, starts))
    extents[present] = np.hstack([low, high])[present]


def _array(polygons: list[list[Any]]) -> np.ndarray:
    try:
        return np.fromiter(chain.from_iterable(polygons), np.float64)
    except OverflowError:  # an integer of more than 308 digits
        numbers = chain.from_iterable(polygons)
        return np.array([value if abs(value) < _LARGEST else np.inf for value in numbers], np.float64)


def _check_runs(
    masks: Sequence[tuple[int, dict[str, Any]]], sizes: np.ndarray, faults: defaultdict[str, set[int]]
) -> None:
    strings: list[tuple[int, str]] = []
    for number, mask in masks:
        size, counts = mask.get("size"), mask.get("counts")
        width, height = map(int, sizes[number])
        if not isinstance(size, list) or not isinstance(counts, str | list):
            faults["form"].add(int(number))
        elif [type(side) for side in size] != [int, int] or size != [height, width]:
            faults["size"].add(int(number))
        elif isinstance(counts, str):
            strings.append((int(number), counts))
        elif not set(map(type, counts)) <= {int} or min(counts, default=-1) < 0 or sum(counts) != height * width:
            faults["counts"].add(int(number))
        elif not sum(counts[1::2]):
            faults["flat"].add(int(number))
    numbers = np.array([number for number, _ in strings], dtype=np.int64)
    sound, objects = check_counts([counts for _, counts in strings], sizes[numbers].astype(np.int64).prod(1).tolist())
    faults["counts"] |= set(numbers[~sound].tolist())
    faults["flat"] |= set(numbers[sound & (objects == 0)].tolist())
