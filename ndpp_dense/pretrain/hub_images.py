"""Labelled images of a Hugging Face data set, by timm's reader: by index, so that a run resumes exactly."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ndpp_dense.images import read_image
from ndpp_dense.images.reading import check_thickness
from ndpp_dense.pretrain.processes import is_main

__all__ = ["HubImages", "open_hub"]

_INSTALL = "Hugging Face's data sets need the package datasets: pip install datasets."
_TEST = ("test",)  # stands in where there is no split for validation
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubImages:
    """One split of a data set.

    Attributes:
        root: Its name, or its folder.
        split: Its split.
        reader: timm's, which gives a stream and a class number by index.
        classes: Names of the classes by number.
    """

    root: Path
    split: str
    reader: Any
    classes: tuple[str, ...]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.reader)

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Decodes an image.

        Args:
            index: 0 to N - 1.

        Returns:
            The image in RGB and its class number.

        Raises:
            ValueError: The image cannot be read, or is too thin; names it.
        """
        stream, target = self.reader[index]
        with stream:
            image = read_image(stream, self.where(index))
        check_thickness(image, self.where(index))
        return image, int(target)

    def where(self, index: int) -> str:
        """Data set, split and number of an image."""
        return f"{self.root}/{self.split}/{index}"


def open_hub(name: str, splits: Mapping[str, Sequence[str]]) -> list[HubImages]:
    """Opens the splits for training and validation.

    Args:
        name: Of the data set, or a folder; ``datasets`` fetches what is not on this machine.
        splits: What each may be called.

    Raises:
        ModuleNotFoundError: The package ``datasets`` is missing.
        FileNotFoundError: There is no such data set, or it has no such split.
        ValueError: It has not one column of images and one of class labels, or an image has no class.
    """
    datasets = _library()
    try:
        there = datasets.get_dataset_split_names(name)
        features = datasets.load_dataset_builder(name).info.features
    except Exception as error:  # of its own kinds, and of those of three libraries below it
        reason = " ".join(str(error).split())[:300]
        raise FileNotFoundError(f"hfds/{name}: datasets cannot load it: {type(error).__name__}: {reason}.") from error
    return [_opened(name, _chosen(name, split, words, there), features) for split, words in splits.items()]


def _library() -> Any:
    try:
        return import_module("datasets")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(_INSTALL, name="datasets") from error


def _chosen(name: str, split: str, words: Sequence[str], there: Sequence[str]) -> str:
    found = next((word for word in (*words, *(_TEST if split != "train" else ())) if word in there), None)
    if found is None:
        raise FileNotFoundError(f"hfds/{name} has no split {' or '.join(words)}; it has {', '.join(there)}.")
    if found in _TEST and is_main():
        _log.warning("hfds/%s has no split for validation: %s is taken, and best.pth is chosen by it.", name, found)
    return found


def _opened(name: str, split: str, features: Any) -> HubImages:
    from timm.data.readers.reader_hfds import ReaderHfds

    if features is None:  # some say what they hold once they are loaded
        features = _library().load_dataset(name, split=split).features
    image, label = _column(name, features, "Image", "images"), _column(name, features, "ClassLabel", "class labels")
    reader = ReaderHfds(name, split=split, input_key=image, target_key=label)
    classes = tuple(features[label].names)
    labels = np.asarray(reader.dataset[label])
    wrong = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(wrong):
        raise ValueError(
            f"hfds/{name}, split {split}: {len(wrong)} of {len(labels)} images have no class (number {wrong[0]} has "
            f"{labels[wrong[0]]}, of {len(classes)} classes): leave the split's labels in, or take another data set."
        )
    return HubImages(Path(name), split, reader, classes)


def _column(name: str, features: Any, kind: str, what: str) -> str:
    found = [key for key, feature in features.items() if type(feature).__name__ == kind]
    if len(found) != 1:
        columns = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in features.items())
        raise ValueError(f"hfds/{name} must have one column of {what}, and has {len(found)}. Its columns: {columns}.")
    return found[0]
