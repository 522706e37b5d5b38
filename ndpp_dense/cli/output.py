"""What the command says: lines and tables on standard output."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ndpp_dense.redaction import redacted

__all__ = ["say", "table"]


def say(*lines: str) -> None:
    """Writes lines; secrets in addresses are left out."""
    for line in lines:
        sys.stdout.write(f"{redacted(line)}\n")
    sys.stdout.flush()


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
