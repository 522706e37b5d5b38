"""Images of more than 8 bits, brought to the 8 bits that models are trained with."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["RANGE_VARIABLE", "check_colour_depth", "to_eight_bits"]

RANGE_VARIABLE = "NDPP_IMAGE_RANGE"
_log = logging.getLogger(__name__)
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
_WHITE_IS_ZERO, _SIGNED = 0, 2
_DARK = 1 / 8  # of the range: an image below it has at most 5 bits of 8 left
_DEEP_COLOUR = re.compile(r";16|65535")  # in Pillow's words for how the samples of a file are laid out
_said: set[str] = set()


def to_eight_bits(image: Image.Image, name: str, kind: str, tags: Mapping[int, Any]) -> Image.Image:
    """Scales a grey image of 16 or 32 bits, or of floats, to 8 bits.

    Args:
        image: Of mode I, F, or one of 16 bits.
        name: Of the file.
        kind: Format of the file, as Pillow calls it.
        tags: Of a TIFF.

    Returns:
        The image in mode L. Values beyond the range are black or white.

    Raises:
        ValueError: The depth does not say what is white and no range is stated, or values are not finite.
    """
    stated = _stated_range()
    depth = _depth(image.mode, kind, tags)
    pixels = np.asarray(image)
    low, high = stated or (0, 2 ** (depth or 0) - 1)
    if not stated and depth is None:
        found = f"values from {_extent(pixels)}"
        raise ValueError(
            f"its pixels are {_kind(image.mode, tags)} (mode {image.mode}, {found}), which do not say what is black "
            f"and what is white. State it for all files, e.g. {RANGE_VARIABLE}=0:4095, or write 8 or 16 bits"
        )
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise ValueError(f"its pixels (mode {image.mode}) are not all finite numbers. Replace those that are not")
    _say(pixels, name, low, high, stated is not None)
    scaled = _scaled(pixels, low, high)
    if kind == "TIFF" and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        scaled = 255 - scaled
    return Image.fromarray(scaled)


def check_colour_depth(layout: str, name: str) -> None:
    """Refuses a colour image of 16 bits where a range is stated: Pillow keeps the upper 8 bits of these.

    Args:
        layout: Pillow's words for how the samples of the file are laid out.
        name: Of the file.

    Raises:
        ValueError: Says what to do.
    """
    if not _DEEP_COLOUR.search(layout):
        return
    if _stated_range():
        raise ValueError(
            f"it has 16 bits a colour, of which the upper 8 are read; {RANGE_VARIABLE} scales grey images only. "
            "Write 8 bits a colour, or leave the variable out"
        )
    _once("colour", f"{name} and other colour images of 16 bits: 0 to 65535 become 0 to 255.")


def _scaled(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    steps = int(high) + 1
    if pixels.dtype.kind in "iu" and low == 0 and steps == high + 1 and steps >= 256 and steps & (steps - 1) == 0:
        # As below, without a copy in floating point: a large image of 16 bits would take four times its memory.
        return (np.clip(pixels, 0, min(steps - 1, np.iinfo(pixels.dtype).max)) >> (steps.bit_length() - 9)).astype(
            np.uint8
        )
    values = np.clip(pixels.astype(np.float64), low, high) - low
    if pixels.dtype.kind == "f":
        return np.round(values * (255 / (high - low))).astype(np.uint8)
    # Equal steps, as taking the upper bits does: x * 256 and x * 257 of an 8-bit picture both come back as x.
    return np.floor(values * (256 / (high - low + 1))).astype(np.uint8)


def _depth(mode: str, kind: str, tags: Mapping[int, Any]) -> int | None:
    """Bits of an unsigned sample; None where values may be anything."""
    if mode.startswith("I;16"):
        return int(np.max(tags.get(_BITS_PER_SAMPLE, 16)))
    # Grey of 16 bits is mode I in older releases of Pillow, and in PGM.
    return 16 if mode == "I" and kind in ("PNG", "PPM") else None


def _kind(mode: str, tags: Mapping[int, Any]) -> str:
    if mode == "F":
        return "floating-point numbers"
    signed = "signed " if np.max(tags.get(_SAMPLE_FORMAT, 1)) == _SIGNED else ""
    return f"{signed}integers of {int(np.max(tags.get(_BITS_PER_SAMPLE, 32)))} bits"


def _stated_range() -> tuple[float, float] | None:
    text = os.environ.get(RANGE_VARIABLE, "")
    if not text:
        return None
    try:
        low, high = (float(word) for word in text.split(":"))
    except ValueError:
        low, high = math.nan, math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"{RANGE_VARIABLE}={text!r} is not LOW:HIGH with LOW below HIGH, such as 0:4095")
    return low, high


def _say(pixels: np.ndarray, name: str, low: float, high: float, stated: bool) -> None:
    source = f"as {RANGE_VARIABLE} states" if stated else "by their depth"
    _once("grey", f"{name} and other grey images of more than 8 bits: {low:g} to {high:g} become 0 to 255, {source}.")
    top = float(pixels.max())
    if top < low + _DARK * (high - low):
        _once(
            "dark",
            f"{name} is dark: its values are {_extent(pixels)} of {low:g} to {high:g}. If the camera has fewer "
            f"bits, state the range for training and inference alike, e.g. {RANGE_VARIABLE}=0:4095.",
        )


def _extent(pixels: np.ndarray) -> str:
    return f"{pixels.min():g} to {pixels.max():g}"


def _once(key: str, message: str) -> None:
    if key not in _said:
        _said.add(key)
        _log.warning("%s", message)
