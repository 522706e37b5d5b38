"""Data sets in Pascal VOC's layout: JPEGImages, Annotations (an XML file an image), ImageSets/Main (lists)."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

from ndpp_dense.datasets.coco.drafts import Draft
from ndpp_dense.datasets.coco.report import first
from ndpp_dense.datasets.coco.yolo import SPLITS
from ndpp_dense.images.folders import find_images, is_hidden

__all__ = ["list_of", "read_voc"]

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_TEXTS = {
    "xml": "{count} annotation files are no whole XML",
    "name": "{count} objects have no <name>",
    "box": "{count} objects have no <bndbox> with the numbers " + ", ".join(_CORNERS),
    "turned": "{count} boxes end before they begin (xmax < xmin or ymax < ymin)",
    "size": "{count} annotation files give another <size> than their image has, so their boxes are of another image",
}


def list_of(folder: Path, split: str) -> Path | None:
    """VOC's list of the images of a split, where there is one."""
    names = (folder / "ImageSets" / "Main" / f"{name}.txt" for name in SPLITS[split])
    return next((file for file in names if file.is_file()), None)


def read_voc(folder: Path, split: str, subject: str) -> Draft:
    """Reads one split, or all of a set without lists.

    Corners count pixels from 1 and include the last one, as the format says. Objects that are marked `difficult` are
    neither right nor wrong to find in "val" (`iscrowd` 1), as in VOC's own evaluation; in "train" they are objects.

    Args:
        folder: That of the set.
        split: "train" or "val".
        subject: What to call the set in messages.

    Returns:
        Boxes.

    Raises:
        FileNotFoundError: Folders, images or annotations are missing.
        ValueError: A file is faulty.
    """
    images, annotations = folder / "JPEGImages", folder / "Annotations"
    for place in (images, annotations):
        if not place.is_dir():
            raise FileNotFoundError(
                f"{subject}: there is no folder {place.name}. A folder must be in VOC's layout (JPEGImages, "
                "Annotations, ImageSets/Main); for YOLO give its data.yaml."
            )
    found = find_images(images)
    draft = Draft(subject, images, ())
    if found.left_out:
        draft.remark([images], f"left out: {found.left_out}")
    files = _by_name(found.files, images, subject)
    described = {
        _name(file, annotations): file for file in sorted(annotations.rglob("*.xml")) if not is_hidden(file.name)
    }
    listed = list_of(folder, split)
    names = _listed(listed, files, described, subject) if listed else sorted(files.keys() & described.keys())
    if not listed:
        draft.remark(sorted(files.keys() - described.keys()), "{count} images without an annotation file are left out")
        draft.remark(sorted(described.keys() - files.keys()), "{count} annotation files without an image are left out")
    faults: defaultdict[str, list[str]] = defaultdict(list)
    difficult = [
        source for name in names for source in _read(draft, files[name], described[name], split == "val", faults)
    ]
    for kind, text in _TEXTS.items():
        draft.report.fault(faults[kind], f"{text}; correct or remove them", what="files")
    draft.report.raise_faults()
    how = "evaluation ignores them, as VOC's does" if split == "val" else "training takes them as any other"
    draft.remark(difficult, f"{{count}} objects are marked difficult: {how}")
    return draft


def _name(file: Path, root: Path) -> str:
    return file.relative_to(root).with_suffix("").as_posix()


def _by_name(files: tuple[Path, ...], root: Path, subject: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in files:
        other = found.setdefault(_name(file, root), file)
        if other is not file:
            raise ValueError(
                f"{other.name} and {file.name} in {root} have one name to VOC's lists: rename one of them."
            )
    return found


def _listed(file: Path, images: dict[str, Path], described: dict[str, Path], subject: str) -> list[str]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8 ({error}): save it as such.") from error
    whole = {images[name].name: name for name in images}
    names = list(dict.fromkeys(line if line in images else whole.get(line, line) for line in lines))
    for what, there in (("images", images), ("annotation files", described)):
        absent = sorted(name for name in names if name not in there)
        if absent:
            raise FileNotFoundError(
                f"{subject}: {file} names {len(absent)} {what} that are not there, such as {first(absent, 3)}. A line "
                "is a name without suffix: add the files, or remove the lines."
            )
    return names


def _read(draft: Draft, image: Path, file: Path, ignoring: bool, faults: defaultdict[str, list[str]]) -> list[str]:
    """Adds an image and its objects; returns the file's name for each object that is marked difficult."""
    entry = draft.add_image(image)
    try:
        root = ElementTree.fromstring(file.read_bytes())
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # an encoding that Python does not know
        faults["xml"].append(f"{file.name}: {error}")
        return []
    size = tuple(_number(root, f"size/{side}") for side in ("width", "height"))
    if min(size) > 0 and size != (entry["width"], entry["height"]):
        faults["size"].append(f"{file.name}: {size[0]:.0f} x {size[1]:.0f}, not {entry['width']} x {entry['height']}")
    marked = []
    for thing in root.iter("object"):
        name = (thing.findtext("name") or "").strip()
        corners = [_number(thing, f"bndbox/{corner}") for corner in _CORNERS]
        kind = "name" if not name else "box" if any(map(math.isnan, corners)) else None
        if kind is None and (corners[2] < corners[0] or corners[3] < corners[1]):
            kind = "turned"
        if kind is not None:
            faults[kind].append(file.name)
            continue
        x, y, right, bottom = corners
        difficult = _number(thing, "difficult") == 1
        marked += [file.name] * difficult
        box = (max(0.0, x - 1), max(0.0, y - 1), right, bottom)
        draft.add_object(entry["id"], name, box, file.name, crowd=int(difficult and ignoring))
    return marked


def _number(element: ElementTree.Element, path: str) -> float:
    """The number at a path; NaN where there is none that is finite."""
    try:
        value = float(element.findtext(path) or "nan")
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
