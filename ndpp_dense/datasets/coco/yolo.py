"""Data sets in YOLO's layout: a data.yaml, images, and a text file of labels for each image."""

from __future__ import annotations

import math
import os
import reprlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ndpp_dense.config_files import UniqueKeys, yaml_fault
from ndpp_dense.datasets.coco.drafts import Draft
from ndpp_dense.datasets.coco.report import first
from ndpp_dense.images.folders import SUFFIXES, find_images

__all__ = ["SPLITS", "read_yolo"]

SPLITS = {"train": ("train",), "val": ("val", "valid", "validation", "test")}
_BEYOND = 0.01  # of an image's side: tools that write labels round
_LIST = ".txt"
_BRIEF = reprlib.Repr()  # of a value that a stranger may have nested a thousandfold
_BRIEF.maxlevel = _BRIEF.maxlist = _BRIEF.maxdict = 3
_TEXTS = {
    "columns": "{count} lines of label files hold neither 'class x y width height' nor 'class x1 y1 x2 y2 x3 y3 ...' "
    "(with a sixth number, a confidence, they are predictions)",
    "numbers": "{count} lines of label files hold what is no number",
    "class": "{count} lines of label files begin with a number that is no class of 'names' (0 to {last})",
    "range": "{count} lines of label files hold coordinates beyond 0 to 1: divide pixels by width and height",
}


def read_yolo(path: Path, split: str, subject: str) -> Draft:
    """Reads one split, with the coordinates that the label files have.

    Args:
        path: The set's data.yaml.
        split: "train" or "val".
        subject: What to call the set in messages.

    Returns:
        Boxes, and polygons where there are any.

    Raises:
        FileNotFoundError: Folders, lists or images are missing.
        ValueError: A file is faulty.
    """
    content = _read_yaml(path)
    names = _names(content)
    remarks: list[tuple[list[Any], str]] = []
    files = _images(path, content, split, subject, remarks)
    draft = Draft(subject, Path(os.path.commonpath([file.parent for file in files])), names)
    for found, text in remarks:
        draft.remark(found, text)
    labels = {file: _labels_of(file) for file in files}
    absent = [str(image) for image, label in labels.items() if label is None]
    if len(absent) == len(files):
        raise FileNotFoundError(
            f"{subject}: none of {len(files)} images has a label file. The one of {absent[0]} would be "
            f"{_swapped(Path(absent[0]))}, or beside it."
        )
    draft.remark(absent, f"{{count}} of {len(files)} images have no label file and count as images without objects")
    _read_labels(draft, labels, path.parent)
    return draft


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    class _Loader(UniqueKeys, yaml.SafeLoader):
        pass

    try:
        content = yaml.load(_text(path), Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(yaml_fault(error, path.name)) from error
    if not isinstance(content, dict) or "names" not in content:
        raise ValueError("it must hold train, val and names, as YOLO's data.yaml does.")
    if content.get("kpt_shape"):
        raise ValueError("it holds keypoints (kpt_shape), which are read from COCO json alone: give NAME=JSON:IMAGES.")
    return content


def _names(content: dict[str, Any]) -> list[str]:
    names = content["names"]
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError("its 'names' must be a list, or numbers from 0 on with a name each.")
    odd = [name for name in names if type(name) not in (str, int)]
    if odd:
        raise ValueError(f"its 'names' hold {_BRIEF.repr(odd[0])}, which is no text to YAML: write it in quotes.")
    if content.get("nc", len(names)) != len(names):
        raise ValueError(f"its 'nc' is {_BRIEF.repr(content['nc'])} and 'names' are {len(names)}: correct one of them.")
    return [str(name).strip() for name in names]


def _images(
    path: Path, content: dict[str, Any], split: str, subject: str, remarks: list[tuple[list[Any], str]]
) -> list[Path]:
    """The images of a split, from folders and lists."""
    entries = next((content[key] for key in SPLITS[split] if content.get(key)), None)
    entries = [entries] if isinstance(entries, str) else entries
    if not isinstance(entries, list) or not all(isinstance(entry, str) and entry.strip() for entry in entries):
        raise ValueError(
            f"its key {split!r} is {_BRIEF.repr(entries)}, it must name a folder of images, a list (.txt), or several."
        )
    base = path.parent / _slashes(str(content.get("path") or "."))
    if not base.is_dir():
        remarks.append(([base], "there is no folder that 'path' names: entries count from the folder of the file"))
    files: list[Path] = []
    for entry in entries:
        place = _place(path, base, entry.strip(), subject)
        if place.is_dir():
            found = find_images(place)
            if found.left_out:
                remarks.append(([place], f"left out: {found.left_out}"))
            files += found.files
        else:
            files += _listed(place, path.parent, subject)
    once = list(dict.fromkeys(files))
    if not once:
        raise FileNotFoundError(f"{subject}: {', '.join(entries)} holds no image ({', '.join(sorted(SUFFIXES))}).")
    remarks.append((files[len(once) :] and _twice(files), "{count} images are named twice and read once"))
    return once


def _twice(files: list[Path]) -> list[Path]:
    seen: set[Path] = set()
    return [file for file in files if file in seen or seen.add(file)]


def _place(path: Path, base: Path, entry: str, subject: str) -> Path:
    """The folder or list that an entry names; exports of some tools lead one folder too far up, or name their disk."""
    bases = [base, path.parent]
    for name in (_slashes(entry), _slashes(entry).removeprefix("../")):
        for folder in bases:
            place = Path(os.path.abspath(folder / name))
            if place.is_dir() or (place.suffix.lower() == _LIST and place.is_file()):
                return place
    wanted = os.path.abspath(bases[0] / _slashes(entry))
    raise FileNotFoundError(
        f"{subject}: there is no folder of images or list (.txt) {wanted}. Correct the entry, which is relative to "
        f"'path' or to {path.name}."
    )


def _slashes(name: str) -> str:
    return name if os.path.exists(name) else name.replace("\\", "/")


def _listed(file: Path, base: Path, subject: str) -> list[Path]:
    """Images that a list names one a line, relative to the list or to data.yaml."""
    lines = [line.strip() for line in _text(file).splitlines() if line.strip()]
    found: list[Path] = []
    missing: list[str] = []
    for line in lines:
        places = (
            Path(os.path.abspath(folder / name)) for name in (line, _slashes(line)) for folder in (file.parent, base)
        )
        place = next((place for place in places if place.is_file()), None)
        if place is None:
            missing.append(line)
        else:
            found.append(place)
    if missing:
        raise FileNotFoundError(
            f"{subject}: {len(missing)} of {len(lines)} images that {file} names are not there (first: "
            f"{first(missing, 3)}). Lines are relative to the list or to data.yaml: correct or remove them."
        )
    odd = [str(place) for place in found if place.suffix.lower() not in SUFFIXES]
    if odd:
        raise ValueError(f"{file} names {len(odd)} files that do not end as images do (first: {odd[0]}): remove them.")
    return found


def _swapped(image: Path) -> Path:
    """YOLO keeps labels in a folder of that name beside 'images'."""
    parts = image.parts
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        image = Path(*parts[:last], "labels", *parts[last + 1 :])
    return image.with_suffix(_LIST)


def _labels_of(image: Path) -> Path | None:
    return next((file for file in (_swapped(image), image.with_suffix(_LIST)) if file.is_file()), None)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")  # editors on Windows write a mark first
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8 ({error}): save it as such.") from error


def _read_labels(draft: Draft, labels: dict[Path, Path | None], base: Path) -> None:
    faults: defaultdict[str, list[str]] = defaultdict(list)
    twice: list[str] = []
    for image, file in labels.items():
        entry = draft.add_image(image)
        seen: set[tuple[float, ...]] = set()
        for number, line in enumerate(_text(file).splitlines() if file else (), 1):
            words = line.split()
            if not words:
                continue
            source = f"{os.path.relpath(str(file), base)}:{number}"
            row = _row(words, len(draft.categories))
            if isinstance(row, str):
                faults[row].append(source)
            elif row in seen:
                twice.append(source)
            else:
                seen.add(row)
                _add(draft, entry, row, source)
    for kind, text in _TEXTS.items():
        draft.report.fault(faults[kind], text.replace("{last}", str(len(draft.categories) - 1)), what="file:line")
    draft.report.raise_faults()
    draft.remark(twice, "{count} lines stand twice in their label file and are read once")


def _row(words: list[str], num_classes: int) -> tuple[float, ...] | str:
    """The numbers of a line, or the kind of its fault."""
    if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        return "columns"
    try:
        row = tuple(map(float, words))
    except ValueError:
        return "numbers"
    if not all(map(math.isfinite, row)):
        return "numbers"
    if row[0] not in range(num_classes):
        return "class"
    return row if all(-_BEYOND <= value <= 1 + _BEYOND for value in row[1:]) else "range"


def _add(draft: Draft, image: dict[str, Any], row: tuple[float, ...], source: str) -> None:
    sides = (image["width"], image["height"])
    category = draft.categories[int(row[0])]
    if len(row) == 5:
        x, y, width, height = (value * sides[i % 2] for i, value in enumerate(row[1:]))
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        draft.add_object(image["id"], category, box, source)
        return
    polygon = [value * sides[i % 2] for i, value in enumerate(row[1:])]
    draft.add_object(image["id"], category, _extent(polygon), source, polygon)


def _extent(polygon: Iterable[float]) -> tuple[float, float, float, float]:
    points = list(polygon)
    x, y = points[::2], points[1::2]
    return min(x), min(y), max(x), max(y)
