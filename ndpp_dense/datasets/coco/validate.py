"""Checks of a COCO-format split before a model is built."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ndpp_dense.datasets.coco.boxes import check_areas, check_boxes, left_out_by_training, read_boxes
from ndpp_dense.datasets.coco.document import check_document, read_document
from ndpp_dense.datasets.coco.keypoints import check_keypoints, keypoint_names
from ndpp_dense.datasets.coco.masks import check_masks, mask_format
from ndpp_dense.datasets.coco.report import Report, first
from ndpp_dense.datasets.coco.sizes import Sizes, measure_sizes

__all__ = ["CocoSummary", "shared_images", "validate_coco"]


@dataclass(frozen=True)
class CocoSummary:
    """What a valid annotation file holds.

    Attributes:
        num_images: images listed.
        num_annotations: annotations listed, crowds included.
        categories: category names, in the order of their ids.
        mask_format: "polygon", "bitmask" (RLE), "mixed" or "none", over annotations that are not crowds.
            The first two are the values Detectron2's `INPUT.MASK_FORMAT` needs; "mixed" needs "bitmask".
        warnings: one line for each thing that is unusual and not wrong; to be shown.
        thinnest: file name, height and width of the image with the most unequal sides.
        keypoints: names of keypoints, empty where the categories name none.
        sizes: of images and objects.
        files: absolute paths of the images.
    """

    num_images: int
    num_annotations: int
    categories: tuple[str, ...]
    mask_format: str
    warnings: tuple[str, ...] = ()
    thinnest: tuple[str, int, int] = ("", 1, 1)
    keypoints: tuple[str, ...] = ()
    sizes: Sizes = Sizes(0, 1.0, 1.0, (1.0, 1.0, 1.0), 0)
    files: frozenset[str] = field(default=frozenset(), repr=False, compare=False)


def validate_coco(
    json_path: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    name: str = "data set",
    masks: bool = False,
    keypoints: bool = False,
    evaluated: bool | None = None,
) -> CocoSummary:
    """Checks a COCO-format split, so that a fault is named now instead of far into training.

    Reads the annotation file once and lists each image folder once; images are not opened. All faults of the file are
    named together.

    Args:
        json_path: annotation file.
        images: folder that the `file_name` entries are relative to.
        name: what to call the set in errors; one that is evaluated is also checked for what COCO evaluation needs of
            each annotation (`area` and `iscrowd`), and may have no object that cannot be found.
        masks: whether every object needs a mask. Masks that there are, are checked in any case.
        keypoints: likewise.
        evaluated: whether COCO evaluation reads it; None asks whether its name ends in `_val`.

    Returns:
        Counts, category names, the mask format, and warnings.

    Raises:
        FileNotFoundError: the annotation file, the image folder or images are missing.
        ValueError: the file is not JSON, not COCO-shaped, empty, or inconsistent; or boxes or masks are not usable.
    """
    path, folder = Path(json_path), Path(images)
    document = read_document(path, name)
    report = Report(f"{name} ({path})", _sources(document))
    evaluated = name.endswith("_val") if evaluated is None else evaluated
    check_document(document, report, evaluated=evaluated)
    _check_annotations(document, report, masks=masks, evaluated=evaluated)
    check_keypoints(document, report, needed=keypoints, evaluated=evaluated)
    report.raise_faults()
    _check_images(document["images"], folder, name)
    _check_unusual(document, report, evaluated=evaluated)
    categories = sorted(document["categories"], key=lambda category: category["id"])
    return CocoSummary(
        num_images=len(document["images"]),
        num_annotations=len(document["annotations"]),
        categories=tuple(category["name"] for category in categories),
        mask_format=mask_format(document["annotations"]),
        warnings=tuple(report.warnings),
        thinnest=_thinnest(document["images"]),
        keypoints=keypoint_names(document["categories"]),
        sizes=measure_sizes(document),
        files=_absolute(document["images"], folder),
    )


def _sources(document: Any) -> dict[int, str]:
    """Where annotations stand in files of another layout, see `as_coco`; empty for files of others."""
    entries = document.get("annotations") if isinstance(document, dict) else None
    return {
        entry["id"]: entry["source"]
        for entry in (entries if isinstance(entries, list) else ())
        if isinstance(entry, dict) and isinstance(entry.get("source"), str) and type(entry.get("id")) is int
    }


def _absolute(images: list[dict[str, Any]], folder: Path) -> frozenset[str]:
    root = os.path.abspath(folder)
    return frozenset(os.path.normpath(os.path.join(root, image["file_name"])) for image in images)


def shared_images(trained: Mapping[str, CocoSummary], evaluated: Mapping[str, CocoSummary]) -> list[str]:
    """A line for each two sets, one trained on and one evaluated, that have images in common.

    Args:
        trained: Sets by name.
        evaluated: Likewise.
    """
    lines = []
    for name, train in trained.items():
        for other, val in evaluated.items():
            common = sorted(train.files & val.files)
            if common and name != other:
                lines.append(
                    f"{len(common)} of {val.num_images} images of {other} are in {name} too (first: "
                    f"{first(common, 3)}): the evaluation counts what was learnt by heart. Take them out of one set."
                )
    return lines


def _thinnest(images: list[dict[str, Any]]) -> tuple[str, int, int]:
    sides = [(image["file_name"], image["height"], image["width"]) for image in images]
    return min(sides, key=lambda image: min(image[1:]) / max(image[1:]))


def _check_annotations(document: dict[str, Any], report: Report, *, masks: bool, evaluated: bool) -> None:
    annotations = document["annotations"]
    by_id = {image["id"]: (image["width"], image["height"]) for image in document["images"]}
    sizes = np.array([by_id[entry["image_id"]] for entry in annotations], dtype=np.float64)
    ids = np.array([entry["id"] for entry in annotations])
    boxes = read_boxes(annotations)
    left_out = left_out_by_training(boxes, sizes)
    extents = check_masks(annotations, sizes, report, needed=masks, evaluated=evaluated, left_out=left_out)
    check_boxes(boxes, ids, sizes, extents, report, evaluated=evaluated)
    if evaluated:
        check_areas(annotations, boxes, report)


def _check_images(images: list[dict[str, Any]], folder: Path, name: str) -> None:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"{name}: the image folder {folder} {what}. Give the folder that holds the images.")
    # One listing per folder: a look at every file takes minutes on network storage at COCO's 118,000 images.
    listings: dict[str, set[str]] = {}
    missing: list[str] = []
    for entry in images:
        parent, base = os.path.split(entry["file_name"])
        if parent not in listings:
            inside = folder / parent
            listings[parent] = set(os.listdir(inside)) if inside.is_dir() else set()
        if base not in listings[parent]:
            missing.append(entry["file_name"])
    if missing:
        raise FileNotFoundError(
            f"{name}: {len(missing)} of {len(images)} images are not in {folder} (first: {first(missing)}). "
            "Add them, or give the folder that the 'file_name' entries are relative to."
        )


def _check_unusual(document: dict[str, Any], report: Report, *, evaluated: bool) -> None:
    images, annotations = document["images"], document["annotations"]
    files = Counter(os.path.normpath(image["file_name"]) for image in images)
    twice = [image["id"] for image in images if files[os.path.normpath(image["file_name"])] > 1]
    report.warn(twice, f"{{count}} of {len(images)} images share their file with another one", what="image ids")
    if evaluated:
        low = [entry["id"] for entry in annotations if entry["id"] < 1]
        text = "{count} annotation ids are below 1, which pycocotools takes for no match"
        report.warn(low, f"{text}; evaluation here numbers them anew")
    else:
        used = {entry["image_id"] for entry in annotations if not entry.get("iscrowd")}
        empty = [image["id"] for image in images if image["id"] not in used]
        text = f"{{count}} of {len(images)} images have no object and are not trained on"
        report.warn(empty, f"{text} (DATALOADER.FILTER_EMPTY_ANNOTATIONS)", what="image ids")
    named = {category["id"]: category["name"] for category in document["categories"]}
    idle = named.keys() - {entry["category_id"] for entry in annotations}
    text = f"{{count}} of {len(named)} categories have no object"
    report.warn(sorted(named[number] for number in idle), text, what="categories")
