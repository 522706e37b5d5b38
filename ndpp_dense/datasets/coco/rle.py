"""COCO's compressed run lengths, checked without decoding the masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["check_counts"]

_AT_ONCE = 20_000  # strings; bounds the memory
_MOST_DIGITS = 7  # of 5 bits in a number: 35 bits hold every run that fits a mask


def check_counts(counts: Sequence[str], totals: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Reads strings of run lengths, as pycocotools writes them, all at once.

    A number takes characters of 5 bits, least significant first, each from "0" on; one whose sixth bit is set is
    followed by another, and the fifth bit of the last is the sign. From the fourth on, numbers are differences to the
    one two places before. Runs are of background and object in turn.

    Args:
        counts: Strings.
        totals: Pixels of each image, which the runs must add up to.

    Returns:
        (N,) bool, whether each string is sound; and (N,) int64, pixels of the object, 0 where it is not.
    """
    sound, objects = np.zeros(len(counts), bool), np.zeros(len(counts), np.int64)
    for start in range(0, len(counts), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        sound[part], objects[part] = _checked(counts[part], np.asarray(totals[part], np.int64))
    return sound, objects


def _checked(counts: Sequence[Any], totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    readable = np.array([text.isascii() and bool(text) and ord(text[-1]) < 80 for text in counts])  # 80: one more bit
    kept = np.flatnonzero(readable)
    sound, objects = np.zeros(len(counts), bool), np.zeros(len(counts), np.int64)
    if len(kept):
        sound[kept], objects[kept] = _summed([counts[number] for number in kept.tolist()], totals[kept])
    return sound, np.where(sound, objects, 0)


def _summed(counts: Sequence[str], totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    digits = np.frombuffer("".join(counts).encode("ascii"), np.uint8) - np.uint8(48)  # those below 48 become large
    lengths = np.array([len(text) for text in counts])
    starts = np.cumsum(lengths) - lengths  # of the strings, in digits
    foreign = np.maximum.reduceat(digits, starts) > 63
    ends = (digits & 32) == 0
    lasts = np.flatnonzero(ends)
    firsts = np.concatenate([[0], lasts[:-1] + 1])  # of the numbers, in digits
    widths = lasts - firsts + 1
    numbers = np.where(digits[lasts] & 16, -1 << (5 * np.minimum(widths, _MOST_DIGITS)), 0)
    for place in range(min(_MOST_DIGITS, int(widths.max()))):
        there = widths > place
        numbers[there] += (digits[firsts[there] + place] & 31).astype(np.int64) << (5 * place)
    runs, owner, parity = _accumulated(numbers, np.add.reduceat(ends, starts, dtype=np.int64))
    wrong = np.bincount(owner, (runs < 0) | (widths > _MOST_DIGITS), len(counts)) > 0
    total = np.bincount(owner, runs, len(counts)).astype(np.int64)
    objects = np.bincount(owner[parity], runs[parity], len(counts)).astype(np.int64)
    return ~foreign & ~wrong & (total == totals), objects


def _accumulated(numbers: np.ndarray, per_string: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turns differences into runs; tells whose each is, and whether it is of the object."""
    owner = np.repeat(np.arange(len(per_string)), per_string)
    begins = np.cumsum(per_string) - per_string
    position = np.arange(len(numbers)) - np.repeat(begins, per_string)
    odd = position % 2 == 1
    runs = numbers.copy()
    for chosen in (odd, ~odd & (position > 0)):
        summed = np.cumsum(numbers[chosen])
        per_owner = np.bincount(owner[chosen], minlength=len(per_string))
        before = np.concatenate([[0], summed])[np.cumsum(per_owner) - per_owner]
        runs[chosen] = summed - np.repeat(before, per_owner)
    return runs, owner, odd
