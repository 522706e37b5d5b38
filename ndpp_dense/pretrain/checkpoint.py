"""Checkpoints that survive a kill at any moment."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from ndpp_dense.atomic_file import replacing
from ndpp_dense.weights import files

__all__ = ["BEST", "LAST", "PREVIOUS", "CheckpointReadError", "newest_readable", "read_checkpoint", "save_checkpoint"]

LAST = "last.pth"  # everything that resuming needs
PREVIOUS = "previous.pth"  # the one before
BEST = "best.pth"  # weights with the best accuracy, for use
_log = logging.getLogger(__name__)


class CheckpointReadError(ValueError):
    """A checkpoint file is truncated, corrupt or of an unknown kind."""


def save_checkpoint(path: Path, state: dict[str, Any], keep: Path | None = None) -> None:
    """Writes a checkpoint: a kill at any moment leaves either the former file or the new one.

    Args:
        path: File to write; its folder is created if absent.
        state: Mappings, lists, numbers, texts and tensors.
        keep: Where the former file goes; between the two renames it is the only one.
    """
    for leftover in path.parent.glob(f".{path.name}-*"):  # of runs that were killed while they wrote
        shutil.rmtree(leftover, ignore_errors=True)
    with replacing(path) as made:
        with made.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())  # on the disk, not in a cache, before it takes its name
        if keep is not None and path.exists():
            path.replace(keep)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint to the CPU, without running code from it.

    Raises:
        CheckpointReadError: The file cannot be read, or is no checkpoint of a run.
    """
    try:
        state = files.read_checkpoint(path)
    except (OSError, ValueError) as error:
        raise CheckpointReadError(str(error)) from error
    if "model" not in state:
        raise CheckpointReadError(f"cannot read checkpoint {path}: it holds no weights under 'model'.")
    return state


def newest_readable(folder: Path) -> Path | None:
    """The last checkpoint, or the one before where that is not readable.

    Returns:
        Its path; None where there is no checkpoint.

    Raises:
        CheckpointReadError: There are checkpoints, and none is readable.
    """
    failures: list[str] = []
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.is_file():
            continue
        try:
            read_checkpoint(path)
        except CheckpointReadError as error:
            failures.append(str(error))
            continue
        if failures:
            _log.warning("Falling back to the checkpoint before, %s, because: %s", path, " ".join(failures))
        return path
    if failures:
        raise CheckpointReadError(f"{' '.join(failures)} Leave --resume out to start again.")
    return None
