"""Data sets in YOLO's and Pascal VOC's layouts, written as COCO json by the package supervision."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ndpp_dense.atomic_file import replacing
from ndpp_dense.config_files import yaml_fault
from ndpp_dense.datasets.coco.flag import CocoSource, OtherSource
from ndpp_dense.datasets.generated import default_root

__all__ = ["as_coco"]

_SPLITS = {"train": ("train",), "val": ("val", "valid", "validation", "test")}


def as_coco(sources: Sequence[CocoSource | OtherSource], folder: Path | None = None) -> list[CocoSource]:
    """Writes what is not COCO json as COCO json, anew at every call.

    Args:
        sources: As :func:`ndpp_dense.datasets.coco.parse_dataset_flag` returns them.
        folder: Where to write; None takes ``$NDPP_HOME/datasets/converted``.

    Returns:
        All sources in COCO format, in the same order. Sets in VOC's layout share one list of categories, by name.

    Raises:
        FileNotFoundError: Folders or files of the layout are missing.
        ValueError: A file is faulty, the layout is neither, or the package supervision is not installed.
    """
    folder = folder or default_root() / "converted"
    documents = {source.name: _read(source) for source in sources if isinstance(source, OtherSource)}
    _refuse_one_split_for_two(sources)
    voc = {s.name for s in sources if isinstance(s, OtherSource) and s.path.is_dir()}
    _share_categories([documents[name][0] for name in voc])
    found = []
    for source in sources:
        if isinstance(source, CocoSource):
            found.append(source)
            continue
        document, images = documents[source.name]
        digest = hashlib.sha256(str(source.path.resolve()).encode()).hexdigest()[:10]
        file = folder / f"{source.name}-{digest}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as made:
            made.write_text(json.dumps(document), encoding="utf-8")
        found.append(CocoSource(source.name, file, images))
    return found


def _refuse_one_split_for_two(sources: Sequence[CocoSource | OtherSource]) -> None:
    """Without lists of the splits a VOC folder is one set, which cannot be trained on and evaluate the result."""
    seen: dict[Path, str] = {}
    for source in sources:
        if not isinstance(source, OtherSource) or not source.path.is_dir() or _list_of(source) is not None:
            continue
        lists = source.path / "ImageSets" / "Main"
        other = seen.setdefault(source.path.resolve(), source.name)
        if other != source.name or lists.is_dir():
            split = source.name.rpartition("_")[2]
            raise ValueError(
                f"--dataset {source.name}={source.path}: {lists} has no {split}.txt, which says which images are of "
                "this split. Write it (one name a line, without suffix), or give another folder."
            )


def _list_of(source: OtherSource) -> Path | None:
    """VOC's list of the images of a split."""
    names = _SPLITS[source.name.rpartition("_")[2]]
    return next((f for k in names if (f := source.path / "ImageSets" / "Main" / f"{k}.txt").is_file()), None)


def _read(source: OtherSource) -> tuple[dict[str, Any], Path]:
    """The set as a COCO document, and the folder of its images."""
    read = _read_voc if source.path.is_dir() else _read_yolo
    try:
        return read(source)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"--dataset {source.name}={source.path}: the package {error.name} reads YOLO's and VOC's layouts: pip "
            "install 'ndpp-dense[formats]', or give COCO json (NAME=JSON:IMAGES)."
        ) from error
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, IndexError, AttributeError, SyntaxError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"--dataset {source.name}={source.path}: {reason}. Correct or remove the file.") from error


def _read_yolo(source: OtherSource) -> tuple[dict[str, Any], Path]:
    import yaml

    try:
        content = yaml.safe_load(source.path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(yaml_fault(error, source.path.name)) from error
    if not isinstance(content, dict) or "names" not in content:
        raise ValueError("it must hold train, val and names, as YOLO's data.yaml does.")
    split = source.name.rpartition("_")[2]
    entry = next((content[key] for key in _SPLITS[split] if content.get(key)), None)
    if not isinstance(entry, str):
        raise ValueError(f"its key {split!r} is {entry!r}, it must name one folder of images.")
    images = _folder(source.path.parent / str(content.get("path") or "."), entry)
    labels = Path(*_swapped(images.parts))
    for folder in (images, labels):
        if not folder.is_dir():
            raise FileNotFoundError(f"--dataset {source.name}={source.path}: there is no folder {folder}.")
    from supervision import DetectionDataset

    masks = _has_polygons(labels)
    data = DetectionDataset.from_yolo(str(images), str(labels), str(source.path), force_masks=masks)
    return _document(data), images


def _folder(base: Path, entry: str) -> Path:
    """The folder that an entry names; exports of some tools lead one folder too far up."""
    direct = base / entry
    return direct.resolve() if direct.is_dir() else (base / entry.removeprefix("../")).resolve()


def _swapped(parts: tuple[str, ...]) -> list[str]:
    """YOLO keeps labels beside images, in a folder of that name."""
    if "images" not in parts:
        raise ValueError(f"labels are looked for in 'labels' beside 'images', and {Path(*parts)} has no such part.")
    last = len(parts) - 1 - parts[::-1].index("images")
    return [*parts[:last], "labels", *parts[last + 1 :]]


def _has_polygons(labels: Path) -> bool:
    for file in sorted(labels.glob("*.txt")):
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        if lines:
            return any(len(line) > 6 for line in lines)
    return False


def _read_voc(source: OtherSource) -> tuple[dict[str, Any], Path]:
    images, annotations = source.path / "JPEGImages", source.path / "Annotations"
    for folder in (images, annotations):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"--dataset {source.name}={source.path}: there is no folder {folder.name}. A folder must be in VOC's "
                "layout (JPEGImages, Annotations, ImageSets/Main); for YOLO give its data.yaml."
            )
    from supervision import DetectionDataset

    document = _document(DetectionDataset.from_pascal_voc(str(images), str(annotations)))
    listed = _list_of(source)
    if listed is not None:
        stems = {line.strip() for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()}
        document["images"] = [image for image in document["images"] if Path(image["file_name"]).stem in stems]
        absent = stems - {Path(image["file_name"]).stem for image in document["images"]}
        if absent:
            raise FileNotFoundError(f"{listed} names {len(absent)} images that are not there, such as {min(absent)}.")
        kept = {image["id"] for image in document["images"]}
        document["annotations"] = [entry for entry in document["annotations"] if entry["image_id"] in kept]
    return document, images


def _document(data: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "coco.json"
        data.as_coco(annotations_path=str(file))
        return json.loads(file.read_text(encoding="utf-8"))


def _share_categories(documents: Sequence[dict[str, Any]]) -> None:
    """VOC's files have no list of categories: that of all sets together is theirs."""
    names = sorted({category["name"] for document in documents for category in document["categories"]})
    numbers = {name: number for number, name in enumerate(names, start=1)}
    for document in documents:
        renamed = {category["id"]: numbers[category["name"]] for category in document["categories"]}
        for entry in document["annotations"]:
            entry["category_id"] = renamed[entry["category_id"]]
        document["categories"] = [{"id": number, "name": name} for name, number in numbers.items()]
