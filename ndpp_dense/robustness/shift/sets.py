"""Which shifts are measured."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ndpp_dense.robustness.shift.borders import Shift

__all__ = ["ALONG", "parse_steps", "shift_grid"]

ALONG = ("cross", "grid", "x", "y", "diagonal")
_RANGE = re.compile(r"\s*(-?\d+)\s*\.\.\s*(-?\d+)\s*")


def parse_steps(text: str, step: int = 1) -> list[int]:
    """Reads the pixels to shift by.

    Args:
        text: ``"-50..50"``, ends included, or ``"-8,-4,0,4,8"``.
        step: Of a range; its multiples are taken, so that 0 is among them where the range holds it.

    Raises:
        ValueError: It is neither, or the range is empty.
    """
    if step < 1:
        raise ValueError(f"step = {step}: it must be at least 1.")
    found = _RANGE.fullmatch(text)
    try:
        if not found:
            return sorted({int(word) for word in text.split(",")})
    except ValueError:
        raise ValueError(f"shifts {text!r} are neither a range such as -50..50 nor numbers such as -4,0,4.") from None
    first, last = int(found[1]), int(found[2])
    steps = [pixels for pixels in range(first, last + 1) if pixels % step == 0]
    if not steps:
        raise ValueError(f"shifts {text!r} in steps of {step} are none: name the smaller end first.")
    return steps


def shift_grid(steps: Iterable[int] = range(-50, 51), along: str = "cross") -> list[Shift]:
    """The shifts to measure, the picture as it is first.

    Args:
        steps: Pixels; 0 is always added.
        along: ``"x"`` or ``"y"`` (one axis), ``"cross"`` (each axis by itself: as many shifts as two axes have),
            ``"grid"`` (every pair: their product, for heat maps) or ``"diagonal"`` (both alike).

    Returns:
        Pairs of rows down and columns to the right: ``(0, 0)``, then the others in order.

    Raises:
        ValueError: ``along`` is unknown, or there is nothing but 0.
    """
    pixels = sorted({0, *map(int, steps)})
    pairs = {
        "x": lambda: {(0, right) for right in pixels},
        "y": lambda: {(down, 0) for down in pixels},
        "cross": lambda: {(0, right) for right in pixels} | {(down, 0) for down in pixels},
        "grid": lambda: {(down, right) for down in pixels for right in pixels},
        "diagonal": lambda: {(both, both) for both in pixels},
    }
    if along not in pairs:
        raise ValueError(f"along = {along!r}: it must be one of {', '.join(map(repr, ALONG))}.")
    if len(pixels) == 1:
        raise ValueError("there is no shift but 0: name some pixels to shift by, such as -50..50.")
    return [(0, 0), *sorted(pairs[along]() - {(0, 0)})]
