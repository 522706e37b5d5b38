"""What checks find in an annotation file, collected so that all of it is said at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["Report", "first"]

_OF_ANNOTATIONS = "annotation ids"


class Report:
    """Faults, which end in one error, and warnings, which are printed.

    Args:
        subject: The data set and its file.
        sources: By id of an annotation, the file and line that it was made from, which people know it by.
    """

    def __init__(self, subject: str, sources: Mapping[Any, str] | None = None) -> None:
        self.subject = subject
        self._sources = sources or {}
        self.faults: list[str] = []
        self.warnings: list[str] = []

    def fault(self, ids: Sequence[Any] | np.ndarray, text: str, *, what: str = _OF_ANNOTATIONS) -> None:
        """Keeps a fault, unless no entry has it.

        Args:
            ids: Of the entries that have it.
            text: What they have, with `{count}` for their number, and what to do.
            what: Kind of the ids.
        """
        if len(ids):
            self.faults.append(self._told(ids, text, what))

    def warn(self, ids: Sequence[Any] | np.ndarray, text: str, *, what: str = _OF_ANNOTATIONS) -> None:
        """Keeps a warning; arguments as for a fault."""
        if len(ids):
            self.warnings.append(f"{self.subject}: {self._told(ids, text, what)}.")

    def _told(self, ids: Sequence[Any] | np.ndarray, text: str, what: str) -> str:
        if what == _OF_ANNOTATIONS and self._sources:
            ids, what = [self._sources.get(number, number) for number in ids], "in"
        return f"{text.replace('{count}', str(len(ids)))} (first {what}: {first(ids)})"

    def raise_faults(self) -> None:
        """Ends here if there was a fault.

        Raises:
            ValueError: Names all of them.
        """
        if len(self.faults) == 1:
            raise ValueError(f"{self.subject}: {self.faults[0]}.")
        if self.faults:
            listed = "; ".join(f"({number}) {text}" for number, text in enumerate(self.faults, 1))
            raise ValueError(f"{self.subject}: {len(self.faults)} kinds of faults: {listed}.")


def first(values: Iterable[Any], count: int = 5) -> str:
    """Some values by comma, with dots where there are more."""
    listed = [str(value) for _, value in zip(range(count + 1), values, strict=False)]
    return ", ".join(listed[:count]) + (", ..." if len(listed) > count else "")
