"""Which numbers a setting may be: tables of ranges by key, and one way to compare with them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["BATCH", "Range", "range_faults"]

_SHOWN = 200  # characters of a value
_LARGEST = 2**31  # that counters of frameworks and of their C code hold


@dataclass(frozen=True)
class Range:
    """Finite numbers between two bounds.

    Attributes:
        least: The smallest.
        most: The largest.
        above: Whether ``least`` itself is too small.
        below: Whether ``most`` itself is too large.
        whole: Whether they are whole numbers.
        also: Numbers that are right besides, infinity included, and what they mean.
        empty: Whether a list of them may be empty.
    """

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    below: bool = False
    whole: bool = False
    also: tuple[tuple[float, str], ...] = ()
    empty: bool = False

    def holds(self, value: Any) -> bool:
        """Whether one value is right; True and False are no numbers."""
        if not isinstance(value, int if self.whole else int | float) or isinstance(value, bool):
            return False
        if value in [number for number, _ in self.also]:
            return True
        if self.whole and abs(value) > _LARGEST:
            return False
        high = value < self.most if self.below else value <= self.most
        return (value > self.least if self.above else value >= self.least) and high and math.isfinite(value)

    def __str__(self) -> str:
        low, high = f"{self.least:.12g}", f"{self.most:.12g}"
        parts = []
        if self.above or self.below or math.isinf(self.least) or math.isinf(self.most):
            if not math.isinf(self.least):
                parts.append(f"above {low}" if self.above else f"at least {low}")
            if not math.isinf(self.most):
                parts.append(f"below {high}" if self.below else f"at most {high}")
        else:
            parts.append(f"from {low} to {high}")
        words = f"a {'whole' if self.whole else 'finite'} number{', ' if parts else ''}{' and '.join(parts)}"
        return "".join(
            [words, *(f", or {number:g}{f' {meaning}' if meaning else ''}" for number, meaning in self.also)]
        )


BATCH = Range(1, 2**16, whole=True)  # images of a step: more fill any memory before the first one


def range_faults(key: str, value: Any, wanted: Range) -> Iterator[str]:
    """What is wrong with a value, or with a list of any depth of them; nothing for None.

    Args:
        key: Of the setting.
        value: Of the setting.
        wanted: What each number must be.
    """
    if value is None:
        return
    several = isinstance(value, list | tuple)
    if several and not (value or wanted.empty) or not all(_fit(value, wanted)):
        shown = f"{value!r}"[:_SHOWN]
        bound = f", and at most {_LARGEST}" if wanted.whole and math.isinf(wanted.most) and _any_above(value) else ""
        yield f"{key} is {shown}, it must be {'a list, each entry ' if several else ''}{wanted}{bound}"


def _any_above(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_any_above, value))
    return isinstance(value, int) and abs(value) > _LARGEST


def _fit(value: Any, wanted: Range) -> Iterator[bool]:
    if not isinstance(value, list | tuple):
        yield wanted.holds(value)
        return
    for item in value:
        if isinstance(item, list | tuple) and not item:
            yield False
        yield from _fit(item, wanted)
