"""The one reader of label images: the class number of every pixel, as it is in the file."""

from __future__ import annotations

import os
from typing import IO

import numpy as np
from PIL import Image

from ndpp_dense.images.reading import opened

__all__ = ["read_labels"]

_NUMBERS = ("1", "L", "P", "I")  # modes whose one channel holds numbers; a palette's entries are numbers too


def read_labels(source: str | os.PathLike[str] | IO[bytes], name: str | None = None) -> np.ndarray:
    """Reads the class numbers of a label image. None is cast, so that 259 does not become 3.

    Args:
        source: A path, or a stream of bytes that can seek.
        name: What to call it in errors; None takes the path.

    Returns:
        (H, W) int64.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or has more than one channel or numbers that are not whole. Names the file.
    """
    with opened(source, name, "labels") as image:
        return _numbers(image)


def _numbers(image: Image.Image) -> np.ndarray:
    if image.mode not in _NUMBERS and not image.mode.startswith("I;16"):
        channels = len(image.getbands())
        what = f"{channels} channels" if channels > 1 else "numbers that are not whole"
        raise ValueError(
            f"it has {what} (mode {image.mode}); labels must be one channel of class numbers. Convert the colours or "
            "channels to class numbers"
        )
    return np.asarray(image).astype(np.int64)
