"""Distorted views of a folder of images, with the order of their strengths in place of ratings."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ndpp_dense.images.folders import SUFFIXES, find_images
from ndpp_dense.robustness.perceptual.distortions import KINDS, LEVELS, centre, distort
from ndpp_dense.robustness.perceptual.rating_sets import Pair, by_reference, check_not_constant, read_image

__all__ = ["GeneratedRatings"]

_log = logging.getLogger(__name__)


class GeneratedRatings:
    """Seven kinds of distortion in five steps each, of every image in a folder; a rating is the step's number.

    Nobody was asked: that step 3 differs more than step 2 is known within a kind only, so every kind is a scale of its
    own. Equal arguments give equal images.

    The picture is the middle square of a file at ``size`` pixels; the reference is its centre within a margin of an
    eighth of them, so that shifts, rotations and changes of scale bring real content into view.

    Args:
        folder: With images, at any depth.
        size: Pixels a side of the pictures; larger images are scaled down to it, smaller ones are refused.
        limit: Number of references, drawn from the folder's images; None takes all.
        kinds: Distortions.
        seed: Of the draw and of the distortions.

    Raises:
        FileNotFoundError: No folder, or no images in it.
        ValueError: Unknown kind; an image that is too small or constant, when it is read.
    """

    def __init__(
        self,
        folder: str | Path,
        size: int = 128,
        limit: int | None = None,
        kinds: Sequence[str] = KINDS,
        seed: int = 0,
    ) -> None:
        unknown = [kind for kind in kinds if kind not in LEVELS]
        if unknown or not kinds:
            raise ValueError(f"Distortions {unknown or list(kinds)}: choose from {', '.join(KINDS)}.")
        if size < 64 or (limit is not None and limit < 1):
            raise ValueError(f"size = {size}, limit = {limit}: size must be at least 64, limit at least 1.")
        self.name = "generated"
        self.size, self.margin, self.seed = size, size // 8, seed
        self._files = _chosen(Path(folder), limit, seed)
        steps = [(kind, level) for kind in kinds for level in range(1, len(LEVELS[kind]) + 1)]
        self.pairs = by_reference(
            Pair(name, f"{name} {kind} {level}", kind, level, float(level), scale=kind)
            for name in self._files
            for kind, level in steps
        )
        self._last: tuple[str, Tensor] = ("", torch.empty(0))

    @property
    def names(self) -> list[str]:
        """Names of the references."""
        return list(self._files)

    def picture(self, name: str) -> Tensor:
        """The reference with its margin, ``(3, size, size)`` of [0, 1]."""
        if self._last[0] != name:
            self._last = (name, self._read(self._files[name]))
        return self._last[1]

    def reference(self, name: str) -> Tensor:
        """See :class:`ndpp_dense.robustness.perceptual.rating_sets.RatingSet`."""
        return centre(self.picture(name), self.margin)

    def distorted(self, pair: Pair) -> Tensor:
        """See :class:`ndpp_dense.robustness.perceptual.rating_sets.RatingSet`."""
        return distort(self.picture(pair.reference), self.margin, pair.kind, pair.level, self.seed, pair.reference)

    def _read(self, path: Path) -> Tensor:
        image = read_image(path)
        height, width = image.shape[1:]
        side = min(height, width)
        if side < self.size:
            raise ValueError(
                f"Image too small: {path} has {height} x {width} pixels, at least {self.size} x {self.size} are "
                "needed. Remove it, or choose a smaller size."
            )
        top, left = (height - side) // 2, (width - side) // 2
        square = image[:, top : top + side, left : left + side]
        if side > self.size:
            square = _scaled_down(square, self.size)
        check_not_constant(square, path)
        return square


def _chosen(folder: Path, limit: int | None, seed: int) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: give one with images ({', '.join(SUFFIXES)}).")
    found = find_images(folder)
    files = list(found.files)
    if files and found.left_out:
        _log.warning("%s: left out are %s.", folder, found.left_out)
    if not files:
        held = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise FileNotFoundError(f"No images ({', '.join(SUFFIXES)}) below {folder}, which holds {held}.")
    if limit is not None and limit < len(files):
        files = [files[i] for i in sorted(np.random.default_rng(seed).permutation(len(files))[:limit])]
    return {path.relative_to(folder).as_posix(): path for path in files}


def _scaled_down(image: Tensor, size: int) -> Tensor:
    from PIL import Image

    pixels = Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy())
    small = np.array(pixels.resize((size, size), Image.Resampling.LANCZOS))
    return torch.from_numpy(small).permute(2, 0, 1).float() / 255
