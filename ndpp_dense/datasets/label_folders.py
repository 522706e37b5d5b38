"""A folder of images and label images, whatever its layout: where they are, which suffixes, which label is ignored."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ndpp_dense.images import read_labels
from ndpp_dense.images.folders import SUFFIXES, is_hidden

__all__ = ["LabelFolder", "find_label_folder", "read_class_names"]

SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "test", "testing")}
IMAGES = ("images", "image", "img", "imgs", "img_dir", "JPEGImages", "leftImg8bit")
LABELS = ("labels", "label", "masks", "mask", "annotations", "ann_dir", "gt", "SegmentationClass", "gtFine")
LOOKED_AT = 200  # label images of a split, evenly spread
NO_LABEL = 255
_SHOWN = 12


@dataclass(frozen=True)
class LabelFolder:
    """Where a set's images and labels are.

    Attributes:
        prefixes: Folders of images and labels below the root, by split (``"train"``, ``"val"``).
        image_suffix: What images end in, e.g. ``".jpg"``.
        label_suffix: What stands in its place in the name of the labels, e.g. ``"_mask.png"``.
        ignore_index: The one label that is of no class.
        counts: Images by split.
    """

    prefixes: dict[str, tuple[str, str]]
    image_suffix: str
    label_suffix: str
    ignore_index: int
    counts: dict[str, int]

    def __str__(self) -> str:
        parts = [f"{self.counts[split]} images in {self.prefixes[split][0]}" for split in self.prefixes]
        return (
            f"{', '.join(parts)} (*{self.image_suffix}, labels *{self.label_suffix}), label {self.ignore_index} is "
            "ignored"
        )


def read_class_names(path: Path) -> list[str]:
    """Names of classes, one a line: that of label 0 first.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: There are fewer than two, or one stands twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--classes {path}: there is no such file. It names one class a line, label 0 first.")
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"--classes {path} is no text: {error}. It names one class a line.") from error
    twice = [name for name, count in Counter(names).items() if count > 1]
    if len(names) < 2 or twice:
        what = f"names {twice[0]!r} twice" if twice else f"names {len(names)} classes, and 2 are needed at least"
        raise ValueError(f"--classes {path} {what}. It names one class a line, label 0 first, background included.")
    return names


def find_label_folder(root: Path, num_classes: int) -> LabelFolder:
    """Finds out how a folder is laid out.

    Images and labels are in two folders for each split, as ``images/train`` and ``labels/train`` or the reverse; names
    that are common for them are tried. Labels carry the name of their image, with a suffix of their own.

    Args:
        root: The folder.
        num_classes: Labels below it are classes; one other may stand for what is ignored.

    Raises:
        FileNotFoundError: There is no such folder, no such layout, or images have no labels.
        ValueError: Labels are neither classes nor the one to be ignored, or suffixes are mixed.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"--dataset {root}: there is no such folder.")
    prefixes = {split: found for split in SPLITS if (found := _prefixes(root, split)) is not None}
    if "train" not in prefixes:
        raise FileNotFoundError(
            f"--dataset {root}: no folders of images and labels were found in it. Expected {IMAGES[0]}/train and "
            f"{LABELS[0]}/train, or train/{IMAGES[0]} and train/{LABELS[0]} (also named {', '.join(IMAGES[1:4])}; "
            f"{', '.join(LABELS[2:5])}), and the same for val; there is {_inside(root)}."
        )
    files = {split: _images(root / images) for split, (images, _) in prefixes.items()}
    empty = [prefixes[split][0] for split, names in files.items() if not names]
    if empty:
        raise FileNotFoundError(f"--dataset {root}: {empty[0]} holds no image ({', '.join(sorted(SUFFIXES))}).")
    image_suffix = _one_suffix(root, [Path(name).suffix for names in files.values() for name in names])
    label_suffix = _label_suffix(root / prefixes["train"][1], files["train"], image_suffix)
    labels: list[Path] = []
    for split, names in files.items():
        own = [root / prefixes[split][1] / f"{name.removesuffix(image_suffix)}{label_suffix}" for name in names]
        absent = [path for path in own if not path.is_file()]
        if absent:
            raise FileNotFoundError(
                f"--dataset {root}: {len(absent)} of {len(own)} images in {prefixes[split][0]} have no labels (first: "
                f"{absent[0].relative_to(root)}). Add them, or remove the images."
            )
        labels += own[:: max(1, len(own) // LOOKED_AT)]
    ignored = _ignored(root, labels, num_classes)
    counts = {split: len(names) for split, names in files.items()}
    return LabelFolder(prefixes, image_suffix, label_suffix, ignored, counts)


def _prefixes(root: Path, split: str) -> tuple[str, str] | None:
    for name in SPLITS[split]:
        for images in IMAGES:
            for labels in LABELS:
                for pair in ((f"{images}/{name}", f"{labels}/{name}"), (f"{name}/{images}", f"{name}/{labels}")):
                    if all((root / part).is_dir() for part in pair):
                        return pair
    return None


def _inside(root: Path) -> str:
    names = sorted(entry.name for entry in root.iterdir())[:_SHOWN]
    return ", ".join(names) or "nothing"


def _images(folder: Path) -> list[str]:
    """Images below a folder, as paths relative to it."""
    found: Iterator[str] = (
        os.path.relpath(os.path.join(place, name), folder) for place, _, names in os.walk(folder) for name in names
    )
    return sorted(n for n in found if Path(n).suffix.lower() in SUFFIXES and not any(map(is_hidden, Path(n).parts)))


def _one_suffix(root: Path, suffixes: Sequence[str]) -> str:
    kinds = Counter(suffixes).most_common()
    if len(kinds) > 1:
        listed = ", ".join(f"{count} in {kind}" for kind, count in kinds)
        raise ValueError(f"--dataset {root}: its images end in several suffixes ({listed}): rename or convert them.")
    return kinds[0][0]


def _label_suffix(folder: Path, images: Sequence[str], image_suffix: str) -> str:
    """The most frequent rest of the names of labels behind those of images."""
    listings: dict[str, list[str]] = {}
    rests: Counter[str] = Counter()
    for image in images[:LOOKED_AT]:
        parent, name = os.path.split(image.removesuffix(image_suffix))
        place = folder / parent
        if parent not in listings:
            listings[parent] = sorted(os.listdir(place)) if place.is_dir() else []
        rests.update(entry.removeprefix(name) for entry in listings[parent] if entry.startswith(name))
    candidates = [(count, -len(rest), rest) for rest, count in rests.items() if Path(f"x{rest}").suffix in SUFFIXES]
    if not candidates:
        raise FileNotFoundError(
            f"{folder} holds no labels named like the images, such as {Path(images[0]).with_suffix('.png').name}."
        )
    return max(candidates)[2]


def _ignored(root: Path, labels: Sequence[Path], num_classes: int) -> int:
    """The label that is no class; 255 where all are."""
    others: dict[int, Path] = {}
    used: set[int] = set()
    for path in labels:
        values = np.flatnonzero(np.bincount(read_labels(path).ravel()))
        used.update(values[values < num_classes].tolist())
        for value in values[values >= num_classes].tolist():
            others.setdefault(value, path)
    if [*others] == [num_classes] and 0 not in used:
        raise ValueError(
            f"--dataset {root}: labels run from {min(used | {num_classes})} to {num_classes} and none is 0: they look "
            f"counted from 1, and {num_classes} classes are 0 to {num_classes - 1}. Subtract 1, or name a class for 0."
        )
    if len(others) == 1 and num_classes == 2 and used == {0}:
        raise ValueError(
            f"--dataset {root}: its labels are 0 and {next(iter(others))}, and 2 classes are named, whose labels are 0 "
            f"and 1. Write {next(iter(others))} as 1, or name as many classes as there are."
        )
    if len(others) > 1:
        shown = ", ".join(map(str, sorted(others)[:_SHOWN]))
        raise ValueError(
            f"--dataset {root}: labels {shown} are no classes ({num_classes} are named: 0 to {num_classes - 1}), and "
            f"only one can be ignored (first: {others[min(others)].relative_to(root)}). Name all classes, or convert "
            "the labels."
        )
    return next(iter(others), NO_LABEL)
