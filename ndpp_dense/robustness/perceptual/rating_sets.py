"""Pairs of a reference and a distorted image with ratings of how much they differ, and their split by reference."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

__all__ = ["FileRatingSet", "RatingSet", "Pair", "ReferenceSplit", "read_image", "split_references"]

_MIN_CONTRAST = 1 / 255  # standard deviation of an image below which there is nothing to distort


@dataclass(frozen=True)
class Pair:
    """A distorted image and what people (or its making) say of it.

    Attributes:
        reference: Name of the reference image.
        distorted: Name of the distorted image.
        kind: Of the distortion.
        level: Of the distortion, 1 the weakest.
        difference: Larger where the images differ more, in the units of its scale.
        scale: Only differences on the same scale are compared.
    """

    reference: str
    distorted: str
    kind: str
    level: int
    difference: float
    scale: str = ""


class RatingSet(Protocol):
    """What a set of pairs is to those that use it."""

    @property
    def name(self) -> str:
        """Of the set."""
        ...

    @property
    def pairs(self) -> Sequence[Pair]:
        """All pairs, those of a reference one after the other."""
        ...

    def reference(self, name: str) -> Tensor:
        """The reference image, ``(3, H, W)`` of [0, 1]."""
        ...

    def distorted(self, pair: Pair) -> Tensor:
        """The distorted image of a pair, of the size of its reference."""
        ...


@dataclass(frozen=True)
class FileRatingSet:
    """Pairs whose images are files.

    Attributes:
        name: Of the set.
        pairs: All pairs.
        files: Path of every image by name.
    """

    name: str
    pairs: tuple[Pair, ...]
    files: dict[str, Path]

    def reference(self, name: str) -> Tensor:
        """See :class:`RatingSet`."""
        return _read(self.files[name])

    def distorted(self, pair: Pair) -> Tensor:
        """See :class:`RatingSet`.

        Raises:
            ValueError: Its size is not that of its reference.
        """
        image, reference = read_image(self.files[pair.distorted]), self.reference(pair.reference)
        if image.shape != reference.shape:
            raise ValueError(
                f"{self.files[pair.distorted]} has {image.shape[1]} x {image.shape[2]} pixels, its reference "
                f"{pair.reference} {reference.shape[1]} x {reference.shape[2]}: they are no pair. Copy the set again."
            )
        return image


@dataclass(frozen=True)
class ReferenceSplit:
    """References for training and for testing, never the same.

    Attributes:
        train: Names of references.
        test: Names of references.
    """

    train: frozenset[str]
    test: frozenset[str]

    def __post_init__(self) -> None:
        both = sorted(self.train & self.test)
        if both:
            raise ValueError(
                f"{len(both)} references are in both parts ({', '.join(both[:3])}): weights would be tested on images "
                "they were trained on. Split with split_references."
            )

    def rows(self, pairs: Sequence[Pair], part: str) -> np.ndarray:
        """Indices of the pairs whose references are in a part, ``"train"`` or ``"test"``."""
        chosen = {"train": self.train, "test": self.test}[part]
        return np.array([index for index, pair in enumerate(pairs) if pair.reference in chosen], dtype=np.int64)


def split_references(ratings: RatingSet, test_share: float = 0.4, seed: int = 0) -> ReferenceSplit:
    """Draws the references for training and for testing.

    Equal pictures under different names stay together, whichever part they come to.

    Args:
        ratings: The set.
        test_share: Of the references, in (0, 1); each part gets at least one.
        seed: Of the draw.

    Raises:
        ValueError: Share out of range, or fewer than two different references.
    """
    if not 0 < test_share < 1:
        raise ValueError(f"test_share = {test_share}: it must be between 0 and 1.")
    groups: dict[str, list[str]] = {}
    for name in sorted({pair.reference for pair in ratings.pairs}):
        picture = ratings.reference(name)
        groups.setdefault(hashlib.sha256(picture.contiguous().numpy().tobytes()).hexdigest(), []).append(name)
    if len(groups) < 2:
        raise ValueError(f"{ratings.name} has {len(groups)} different reference images: a split needs at least 2.")
    parts = list(groups.values())
    order = np.random.default_rng(seed).permutation(len(parts))
    count = min(max(1, round(test_share * len(parts))), len(parts) - 1)
    test, train = ({name for i in chosen for name in parts[i]} for chosen in (order[:count], order[count:]))
    return ReferenceSplit(frozenset(train), frozenset(test))


def read_image(path: Path) -> Tensor:
    """Reads an image file as ``(3, H, W)`` of [0, 1], RGB.

    Raises:
        ValueError: It cannot be read; names the file.
    """
    from ndpp_dense.images.reading import read_image as read_pixels

    return torch.from_numpy(np.array(read_pixels(path))).permute(2, 0, 1).float() / 255


_read = lru_cache(maxsize=2)(read_image)  # pairs come by reference: read each once


def check_not_constant(image: Tensor, name: str | Path) -> None:
    """Refuses an image in which there is nothing to see.

    Raises:
        ValueError: Names the image.
    """
    contrast = float(image.std())
    if contrast < _MIN_CONTRAST:
        raise ValueError(
            f"{name} is constant (standard deviation {255 * contrast:.2f} of 255): blur, shifts and contrast leave it "
            "as it is, so that no order of distances exists. Remove it from the references."
        )


def by_reference(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    """Sorts pairs, those of a reference one after the other."""
    return tuple(sorted(pairs, key=lambda pair: (pair.reference, pair.kind, pair.level, pair.distorted)))
