"""What became of every key of a file of weights, as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

__all__ = ["FAULTS", "KeyRow", "KeyTable"]

FAULTS = ("left over", "missing", "shape")
_ORDER = ("matched", "renamed", "added", "dropped", *FAULTS)


@dataclass(frozen=True)
class KeyRow:
    """One key.

    Attributes:
        status: ``"matched"`` (written under the same name), ``"renamed"``, ``"added"``, ``"dropped"``; or a fault:
            ``"left over"`` (in the file, and the model has no such weight), ``"missing"`` (the reverse), ``"shape"``.
        source: Name in the file; empty if it is not there.
        target: Name that it is or would be written under; empty if it is not.
        note: Why, or the shape.
    """

    status: str
    source: str
    target: str
    note: str = ""


@dataclass
class KeyTable:
    """All keys of a conversion. Its text has one line for the keys of a layer that fare alike, and the counts.

    Attributes:
        rows: The keys.
    """

    rows: list[KeyRow] = field(default_factory=list)

    def count(self, status: str) -> int:
        """Number of keys that fared so."""
        return sum(row.status == status for row in self.rows)

    def check(self) -> None:
        """Refuses faults.

        Raises:
            ValueError: Keys are left over, missing or of another shape; names the first of each kind.
        """
        found = []
        for status in FAULTS:
            rows = [row for row in self.rows if row.status == status]
            if rows:
                note = f" ({rows[0].note})" if rows[0].note else ""
                more = ", ..." if len(rows) > 1 else ""
                found.append(f"{len(rows)} {status}: {rows[0].source or rows[0].target}{note}{more}")
        if found:
            raise ValueError(
                f"nothing was written, since not every key fits: {'; '.join(found)}. Choose the right --model and "
                "--from, or allow what may be dropped or missing with --allow PATTERN."
            )

    def __str__(self) -> str:
        """The table, faults last, and the counts."""
        lines = [("status", "in the file", "written as", "")]
        for status in _ORDER:
            lines += _grouped([row for row in self.rows if row.status == status])
        widths = [max(len(line[column]) for line in lines) for column in range(3)]
        texts = ["  ".join(cell.ljust(width) for cell, width in zip(line, [*widths, 0], strict=True)) for line in lines]
        return "\n".join([*(text.rstrip() for text in texts), self.summary()])

    def summary(self) -> str:
        """The counts in one line."""
        counts = Counter(row.status for row in self.rows)
        return f"{len(self.rows)} keys: " + ", ".join(f"{counts[status]} {status}" for status in _ORDER)


def _grouped(rows: list[KeyRow]) -> Iterator[tuple[str, str, str, str]]:
    """One line for neighbours that belong to the same layer."""

    def layer(row: KeyRow) -> tuple[str, str, str]:
        return row.source.rpartition(".")[0], row.target.rpartition(".")[0], row.note

    for _, group in groupby(rows, layer):
        same = list(group)
        yield same[0].status, _joined([r.source for r in same]), _joined([r.target for r in same]), same[0].note


def _joined(names: list[str]) -> str:
    """``a.b.{c,d}`` for ``a.b.c`` and ``a.b.d``."""
    if len(set(names)) == 1:
        return names[0]
    layer = names[0].rpartition(".")[0]
    start = f"{layer}." if layer else ""
    return f"{start}{{{','.join(name.rpartition('.')[2] for name in names)}}}"
