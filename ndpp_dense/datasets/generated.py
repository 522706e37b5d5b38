"""Keeping generated data sets on disk: complete or not there, made once however many processes ask."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["default_root", "folder_name", "generate_once"]


def default_root() -> Path:
    """Returns the folder that generated sets are kept under: `$NDPP_HOME/datasets`, else one in `~/.cache`."""
    home = os.environ.get("NDPP_HOME")
    return (Path(home).expanduser() if home else Path.home() / ".cache" / "ndpp_dense") / "datasets"


def folder_name(name: str, version: int, recipe: Mapping[str, Any]) -> str:
    """Returns a name that changes with everything that decides the bytes of a set.

    Args:
        name: of the set.
        version: of the code that generates it.
        recipe: its arguments.
    """
    text = json.dumps({"version": version, **recipe}, sort_keys=True)
    return f"{name}-v{version}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def generate_once(name: str, final: Path, generate: Callable[[Path], None]) -> None:
    """Generates into a temporary folder and renames it, so that a folder of the final name is always complete.

    Args:
        name: of the set, for messages.
        final: the folder to make; nothing is done where it exists.
        generate: fills an empty folder.

    Raises:
        PermissionError: the folder cannot be written.
    """
    from filelock import FileLock

    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(final.with_name(final.name + ".lock")):
            if final.is_dir():
                return
            with tempfile.TemporaryDirectory(dir=final.parent, prefix=f".{final.name}-") as scratch:
                # The inner folder is made with the user's umask; the outer one is private to this user.
                made = Path(scratch) / "set"
                made.mkdir()
                generate(made)
                _move(made, final)
    except PermissionError as error:
        raise PermissionError(
            f"{name} data set: cannot write to {final.parent} ({error}). "
            "Set the environment variable NDPP_HOME to a folder you can write to, or pass root=."
        ) from error


def _move(made: Path, final: Path) -> None:
    try:
        made.rename(final)
    except OSError:
        # Some network file systems ignore locks: another process may have finished first, with the same bytes.
        if not final.is_dir():
            raise
