"""Data sets of the user in COCO format: the NAME=JSON:IMAGES flag, and checks before anything is trained."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SECTIONS = ("images", "annotations", "categories")
_FLAG_HELP = "Expected NAME=JSON:IMAGES, e.g. --dataset cells_train=/data/cells/train.json:/data/cells/images"
_DRIVE = re.compile(r"(?:^|:)[A-Za-z](:)[\\/]")


@dataclass(frozen=True)
class CocoSource:
    """One split in COCO format.

    Attributes:
        name: name to register it under; ends in `_train` or `_val`.
        json: annotation file.
        images: folder that the `file_name` entries are relative to.
    """

    name: str
    json: Path
    images: Path


@dataclass(frozen=True)
class CocoSummary:
    """What a valid annotation file holds.

    Attributes:
        num_images: images listed.
        num_annotations: annotations listed, crowds included.
        categories: category names, in the order of their ids.
        mask_format: "polygon", "bitmask" (RLE), "mixed" or "none", over annotations that are not crowds.
            The first two are the values Detectron2's `INPUT.MASK_FORMAT` needs; "mixed" needs "bitmask".
    """

    num_images: int
    num_annotations: int
    categories: tuple[str, ...]
    mask_format: str


def parse_dataset_flag(flag: str) -> CocoSource:
    """Reads a `NAME=JSON:IMAGES` command-line value; the paths need not exist yet.

    A path may hold colons (a drive letter, a time stamp) as long as one colon alone can separate the two: the one
    after `.json`, or the one that leaves an existing file on its left.

    Args:
        flag: e.g. `cells_train=/data/train.json:/data/images`.

    Returns:
        The source, with `~` expanded.

    Raises:
        ValueError: a part is missing or empty, the name's ending is unknown, or the colons are ambiguous.
    """
    name, equals, paths = flag.partition("=")
    if not equals or not name.strip():
        raise ValueError(f"--dataset {flag!r}: no data set name before '='. {_FLAG_HELP}")
    name = name.strip()
    if not name.endswith(("_train", "_val")) or name in ("_train", "_val"):
        raise ValueError(
            f"--dataset {flag!r}: the name {name!r} must end in '_train' or '_val', which says what the set is for. "
            f"Rename it to {name + '_train'!r} or {name + '_val'!r}."
        )
    json_path, images = _split_paths(flag, paths)
    return CocoSource(name, Path(json_path).expanduser(), Path(images).expanduser())


def _split_paths(flag: str, paths: str) -> tuple[str, str]:
    drives = {match.start(1) for match in _DRIVE.finditer(paths)}
    colons = [i for i, letter in enumerate(paths) if letter == ":" and i not in drives]
    splits = [(paths[:i], paths[i + 1 :]) for i in colons if paths[:i].strip() and paths[i + 1 :].strip()]
    if not splits:
        raise ValueError(
            f"--dataset {flag!r}: needs an annotation file and an image folder, got {paths!r}. {_FLAG_HELP}"
        )
    for fits in (_is_existing_file, _ends_in_json, lambda _: True):
        fitting = [pair for pair in splits if fits(pair[0])]
        if len(fitting) == 1:
            return fitting[0]
    raise ValueError(
        f"--dataset {flag!r}: {len(splits)} colons could separate the annotation file from the image folder. "
        "Use paths without ':' (a symbolic link will do)."
    )


def _is_existing_file(path: str) -> bool:
    return Path(path).expanduser().is_file()


def _ends_in_json(path: str) -> bool:
    return path.lower().endswith(".json")


def validate_coco(
    json_path: str | os.PathLike[str], images: str | os.PathLike[str], *, name: str = "data set"
) -> CocoSummary:
    """Checks a COCO-format split, so that a fault is named now instead of far into training.

    Reads the annotation file once and lists each image folder once; images are not opened.

    Args:
        json_path: annotation file.
        images: folder that the `file_name` entries are relative to.
        name: what to call the set in errors; a name ending in `_val` is also checked for what COCO evaluation
            needs of each annotation (`area` and `iscrowd`).

    Returns:
        Counts, category names and the mask format.

    Raises:
        FileNotFoundError: the annotation file, the image folder or images are missing.
        ValueError: the file is not JSON, not COCO-shaped, empty, or inconsistent.
    """
    path, folder = Path(json_path), Path(images)
    subject = f"{name} ({path})"
    document = _load(path, name)
    _check_shape(document, subject)
    _check_ids(document, subject)
    _check_annotations(document["annotations"], subject, evaluated=name.endswith("_val"))
    _check_images(document["images"], folder, name)
    categories = sorted(document["categories"], key=lambda category: category["id"])
    return CocoSummary(
        num_images=len(document["images"]),
        num_annotations=len(document["annotations"]),
        categories=tuple(str(category["name"]) for category in categories),
        mask_format=_mask_format(document["annotations"]),
    )


def _load(path: Path, name: str) -> Any:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(
            f"{name}: the annotation file {path} {what}. Give the path of a COCO-format .json file."
        )
    try:
        with path.open(encoding="utf-8") as stream:
            return json.load(stream)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{name}: {path} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}. "
            "Is the file complete? Write or download it again."
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: {path} is not UTF-8 text ({error}). Give a COCO-format .json file.") from error


def _check_shape(document: Any, subject: str) -> None:
    if not isinstance(document, dict):
        raise ValueError(
            f"{subject}: not COCO-shaped: the top level is a {type(document).__name__}, not an object with "
            f"{', '.join(_SECTIONS)}. (A list of detections is a results file, not ground truth.)"
        )
    wrong = [key for key in _SECTIONS if not isinstance(document.get(key), list)]
    if wrong:
        raise ValueError(
            f"{subject}: not COCO-shaped: no list under {', '.join(wrong)}; keys found: {sorted(document) or 'none'}. "
            "Convert the annotations to COCO's instance format."
        )
    for key in _SECTIONS:
        if not document[key]:
            raise ValueError(
                f"{subject}: {key!r} is empty. Give a file with at least one entry under each of {_SECTIONS}."
            )
    required = {"images": ("id", "file_name", "height", "width"), "categories": ("id", "name")}
    required["annotations"] = ("id", "image_id", "category_id", "bbox")
    for section, keys in required.items():
        _check_keys(document[section], section, keys, subject)


def _check_keys(entries: list[Any], section: str, keys: tuple[str, ...], subject: str) -> None:
    for key in keys:
        lacking = [i for i, entry in enumerate(entries) if not isinstance(entry, dict) or key not in entry]
        if lacking:
            raise ValueError(
                f"{subject}: {len(lacking)} of {len(entries)} entries under {section!r} have no {key!r} "
                f"(first, by position: {_first(lacking)}). Add the key to each entry."
            )


def _check_ids(document: dict[str, Any], subject: str) -> None:
    known: dict[str, set[Any]] = {}
    for section in _SECTIONS:
        seen: set[Any] = set()
        twice = [entry["id"] for entry in document[section] if entry["id"] in seen or seen.add(entry["id"])]
        if twice:
            raise ValueError(
                f"{subject}: {len(twice)} ids under {section!r} occur twice (first: {_first(twice)}). "
                "Give each entry its own id."
            )
        known[section] = seen
    for key, section in (("image_id", "images"), ("category_id", "categories")):
        stray = [entry for entry in document["annotations"] if entry[key] not in known[section]]
        if stray:
            raise ValueError(
                f"{subject}: {len(stray)} annotations have an {key} that is not under {section!r} "
                f"(first annotation ids: {_first(entry['id'] for entry in stray)}; first {key}s: "
                f"{_first(entry[key] for entry in stray)}). Remove them or add what they refer to."
            )


def _check_annotations(annotations: list[dict[str, Any]], subject: str, *, evaluated: bool) -> None:
    bad = [entry["id"] for entry in annotations if not _is_box(entry["bbox"])]
    if bad:
        raise ValueError(
            f"{subject}: {len(bad)} of {len(annotations)} annotations have a 'bbox' that is not [x, y, width, height] "
            f"with positive width and height (first annotation ids: {_first(bad)}). Correct or remove them."
        )
    if evaluated:
        _check_keys(annotations, "annotations", ("area", "iscrowd"), f"{subject}, which COCO evaluation reads")


def _is_box(box: Any) -> bool:
    if not isinstance(box, list) or len(box) != 4:
        return False
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in box):
        return False
    return box[2] > 0 and box[3] > 0


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
            f"{name}: {len(missing)} of {len(images)} images are not in {folder} (first: {_first(missing)}). "
            "Add them, or give the folder that the 'file_name' entries are relative to."
        )


def _mask_format(annotations: list[dict[str, Any]]) -> str:
    # Detectron2 drops crowds before it looks at masks, and COCO stores those as RLE beside polygons.
    masks = [entry.get("segmentation") for entry in annotations if not entry.get("iscrowd")]
    kinds = {"bitmask" if isinstance(mask, dict) else "polygon" for mask in masks if mask}
    return "mixed" if len(kinds) == 2 else next(iter(kinds), "none")


def _first(values: Iterable[Any], count: int = 5) -> str:
    listed = [str(value) for _, value in zip(range(count + 1), values, strict=False)]
    return ", ".join(listed[:count]) + (", ..." if len(listed) > count else "")
