"""The one reader of label images: the class number of every pixel, as it is in the file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np
from PIL import Image

from ndpp_dense.images.reading import opened

__all__ = ["check_palettes", "read_labels"]

_LOOKED_AT = 200  # files
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


def check_palettes(files: Sequence[str]) -> None:
    """Refuses labels whose colours have other numbers from file to file, as programs that draw write them.

    Reads the heads of some of the files, at equal distances.

    Args:
        files: Paths.

    Raises:
        ValueError: A colour has one number in one file and another in the next. Names both.
    """
    seen: dict[tuple[int, ...], tuple[int, str]] = {}
    for file in files[:: max(1, len(files) // _LOOKED_AT)]:
        for number, colour in enumerate(_palette(file)):
            known, where = seen.setdefault(colour, (number, file))
            if known != number and where != file:
                raise ValueError(
                    f"the labels {where} and {file} have palettes of their own: the colour {colour} is number {known} "
                    f"in one and {number} in the other. Convert the colours to class numbers, the same in every file; "
                    "where the numbers are right and only the palettes differ, save without them (mode L)."
                )


def _palette(file: str) -> list[tuple[int, ...]]:
    """The colours of a file in order, each where it first stands; none where there is no palette."""
    try:
        with Image.open(file) as image:
            values = image.getpalette() if image.mode == "P" else None
    except (OSError, SyntaxError, ValueError):  # which reading it will name
        return []
    colours = [tuple(values[place : place + 3]) for place in range(0, len(values), 3)] if values else []
    return list(_leading(colours))


def _leading(colours: list[tuple[int, ...]]) -> Iterator[tuple[int, ...]]:
    """Up to the first colour that stands twice: the rest of a palette is filled up."""
    seen: set[tuple[int, ...]] = set()
    for colour in colours:
        if colour in seen:
            return
        seen.add(colour)
        yield colour


def _numbers(image: Image.Image) -> np.ndarray:
    if image.mode not in _NUMBERS and not image.mode.startswith("I;16"):
        channels = len(image.getbands())
        what = f"{channels} channels" if channels > 1 else "numbers that are not whole"
        raise ValueError(
            f"it has {what} (mode {image.mode}); labels must be one channel of class numbers. Convert the colours or "
            "channels to class numbers"
        )
    return np.asarray(image).astype(np.int64)
