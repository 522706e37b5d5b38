"""Data sets by name for Detectron2: the demo, COCO sets of the user, and checks of what a config asks for."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import builtin, load_coco_json, register_coco_instances
from detectron2.utils.file_io import PathManager

from ndpp_dense.datasets.coco import CocoSource, CocoSummary, validate_coco
from ndpp_dense.datasets.digits import DEFAULT_CATEGORIES, ensure_digits, locate_digits

__all__ = ["check_available", "register_coco", "register_demo", "validate_registered"]

_DEMO_SPLITS = ("digits_train", "digits_val")
# The metadata that Detectron2's own sets (COCO, LVIS, Cityscapes, Pascal VOC, ADE20K) keep their paths under.
_PATH_KEYS = ("json_file", "image_root", "image_dir", "gt_dir", "dirname", "sem_seg_root", "panoptic_root")
_WAYS = (
    "register a COCO-format set with --dataset NAME=JSON:IMAGES, "
    f"or run the demo config, which needs no data (its sets are {' and '.join(_DEMO_SPLITS)})"
)


def register_coco(source: CocoSource, *, masks: bool = False, keypoints: bool = False) -> CocoSummary:
    """Validates a COCO-format split and registers it with Detectron2.

    Args:
        source: name and paths. Registering the same name with the same paths again changes nothing.
        masks: whether every object needs a mask.
        keypoints: whether every object needs keypoints.

    Returns:
        What the annotation file holds; its `mask_format` tells what `INPUT.MASK_FORMAT` has to be, its `warnings` are
        to be shown.

    Raises:
        FileNotFoundError: annotations, image folder or images are missing.
        ValueError: the annotations are faulty, or the name stands for other paths already.
    """
    summary = validate_coco(source.json, source.images, name=source.name, masks=masks, keypoints=keypoints)
    wanted = _Paths(source.json, source.images)
    if source.name in DatasetCatalog.list():
        present = MetadataCatalog.get(source.name)
        taken = _Paths(present.get("json_file", ""), present.get("image_root", ""))
        if taken != wanted:
            raise ValueError(
                f"data set {source.name!r} is registered already, with {taken}; got {wanted}. Choose another name."
            )
        return summary
    register_coco_instances(source.name, {"thing_classes": [*summary.categories]}, *wanted)
    return summary


def validate_registered(name: str, *, masks: bool, keypoints: bool, evaluated: bool) -> CocoSummary | None:
    """Checks a COCO-format set that the user's own code has registered, as those of `--dataset` are.

    Args:
        name: In Detectron2's catalog.
        masks: whether every object needs a mask.
        keypoints: whether every object needs keypoints.
        evaluated: whether it is evaluated.

    Returns:
        What it holds; None for sets of other formats, those that come with Detectron2, and the demo's.

    Raises:
        FileNotFoundError: images or annotations are missing.
        ValueError: the annotations are faulty, or the categories are not those that it was registered with.
    """
    metadata = MetadataCatalog.get(name)
    file, images = metadata.get("json_file"), metadata.get("image_root")
    theirs = {split for group in getattr(builtin, "_PREDEFINED_SPLITS_COCO", {}).values() for split in group}
    if metadata.get("evaluator_type") != "coco" or not file or images is None or name in (*theirs, *_DEMO_SPLITS):
        return None
    file, images = PathManager.get_local_path(file), PathManager.get_local_path(images)
    summary = validate_coco(file, images, name=name, masks=masks, keypoints=keypoints, evaluated=evaluated)
    stated = metadata.get("thing_classes")
    if stated is not None and tuple(stated) != summary.categories:
        raise ValueError(
            f"data set {name!r} is registered with the categories {', '.join(map(str, stated))}, and {file} has "
            f"{', '.join(summary.categories)}. Register it with those of the file, in the order of their ids."
        )
    metadata.thing_classes = [*summary.categories]
    return summary


class _Paths(tuple[str, str]):
    """Annotation file and image folder, absolute, so that two spellings of a path compare equal."""

    def __new__(cls, json: str | Path, images: str | Path) -> _Paths:
        return super().__new__(cls, (str(Path(json).resolve()), str(Path(images).resolve())))

    def __str__(self) -> str:
        return f"annotations {self[0]} and images {self[1]}"


def register_demo() -> None:
    """Registers `digits_train` and `digits_val`; they are generated when one is first asked for.

    Safe to call again, and safe when several processes ask for the data at once. Masks are RLE:
    `INPUT.MASK_FORMAT` has to be "bitmask".
    """
    paths = locate_digits()
    for name in _DEMO_SPLITS:
        if name in DatasetCatalog.list():
            continue
        split = name.removeprefix("digits_")
        json_file, images = str(getattr(paths, f"{split}_json")), str(getattr(paths, f"{split}_images"))
        DatasetCatalog.register(name, _DemoLoader(name, json_file, images, paths.root.parent))
        MetadataCatalog.get(name).set(
            json_file=json_file,
            image_root=images,
            evaluator_type="coco",
            thing_classes=[str(digit) for digit in DEFAULT_CATEGORIES],
        )


class _DemoLoader:
    """Loads one split of the demo set, generating it if it is not there."""

    def __init__(self, name: str, json_file: str, images: str, root: Path) -> None:
        self.name, self.json_file, self.images, self.root = name, json_file, images, root

    def __call__(self) -> list[dict[str, Any]]:
        ensure_digits(self.root)
        return load_coco_json(self.json_file, self.images, self.name)


def check_available(names: Iterable[str]) -> None:
    """Checks that data sets exist before a model is built; the demo set is generated here if it is not there.

    Args:
        names: e.g. `[*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]`.

    Raises:
        ValueError: a name is not registered.
        FileNotFoundError: the files of a registered set are not there.
    """
    for name in names:
        if name not in DatasetCatalog.list():
            raise ValueError(_unknown(name))
        if name in _DEMO_SPLITS:
            ensure_digits(Path(MetadataCatalog.get(name).json_file).parents[1])
        missing = _missing_files(name)
        if missing:
            raise FileNotFoundError(_absent(name, missing))


def _unknown(name: str) -> str:
    registered = sorted(DatasetCatalog.list())
    near = difflib.get_close_matches(name, registered, n=3)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    ready = [other for other in registered if other in _DEMO_SPLITS or not _missing_files(other)]
    return (
        f"data set {name!r} is not registered.{hint} Ready to use: {', '.join(ready) or 'none'}. Known, but without "
        f"files here: {len(registered) - len(ready)} of Detectron2's own, such as coco_2017_val. "
        f"To use your own, {_WAYS}."
    )


def _missing_files(name: str) -> list[str]:
    metadata = MetadataCatalog.get(name)
    paths = [metadata.get(key, None) for key in _PATH_KEYS]
    return [path for path in paths if path and not PathManager.exists(path)]


def _absent(name: str, missing: list[str]) -> str:
    root = os.environ.get("DETECTRON2_DATASETS")
    state = f"is {root!r}" if root else "is not set, so Detectron2 looks in ./datasets"
    looked = ", ".join(os.path.abspath(path) for path in missing)
    return (
        f"data set {name!r}: not found: {looked}. The environment variable DETECTRON2_DATASETS {state}. "
        f"Set it to the folder that holds Detectron2's data sets (before Python starts), or {_WAYS}."
    )
