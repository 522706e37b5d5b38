"""What the command writes: lines and tables on standard output, and where its files go."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ndpp_dense.redaction import shown

__all__ = ["check_folder", "say", "table"]


def say(*lines: str) -> None:
    """Writes lines; secrets in addresses are left out, and signs that steer a terminal written out."""
    for line in lines:
        sys.stdout.write(f"{shown(line)}\n")
    sys.stdout.flush()


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def check_folder(flag: str, folder: str | Path | None) -> None:
    """Looks, before hours of work, whether files can be written to a folder that is there or will be made.

    Args:
        flag: Of the command line, for the message.
        folder: None, where it was not given, is right.

    Raises:
        ValueError: It has no name, is a file or below one, or cannot be written to.
    """
    if folder is None:
        return
    if not str(folder):  # a variable of a script that is not set
        raise ValueError(f"{flag} is given and empty. Name a folder, there or not yet, or leave {flag} out.")
    there = next(place for place in (Path(folder).absolute(), *Path(folder).absolute().parents) if place.exists())
    if not there.is_dir():
        raise ValueError(f"{flag} {folder}: {there} is a file. Name a folder, there or not yet.")
    if not os.access(there, os.W_OK | os.X_OK) or there.is_relative_to("/proc"):
        raise ValueError(f"{flag} {folder}: nothing can be written to {there}. Name a folder that is yours.")
