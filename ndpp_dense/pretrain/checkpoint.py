"""Checkpoints of a pretraining run: the last one, the one before, and the best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ndpp_dense.training import checkpoint_files
from ndpp_dense.training.checkpoint_files import Choice, choose_newest
from ndpp_dense.weights import files

__all__ = [
    "BEST",
    "CHECKPOINTS",
    "LAST",
    "PREVIOUS",
    "CheckpointReadError",
    "newest_sound",
    "read_checkpoint",
    "save_checkpoint",
]

LAST = "last.pth"  # everything that resuming needs
PREVIOUS = "previous.pth"  # the one before
BEST = "best.pth"  # weights with the best accuracy, for use
CHECKPOINTS = (LAST, PREVIOUS, BEST)


class CheckpointReadError(ValueError):
    """A checkpoint file is damaged or of an unknown kind."""


def save_checkpoint(path: Path, state: dict[str, Any], keep: Path | None = None) -> None:
    """Writes a checkpoint: a kill at any moment leaves either the former file or the new one.

    Args:
        path: File to write; its folder is created if absent.
        state: Mappings, lists, numbers, texts and tensors; ``done`` is how many optimizer steps it has.
        keep: Where the former file goes; between the two renames it is the only one.

    Raises:
        OSError: The file could not be written; those before are whole.
    """
    checkpoint_files.save_checkpoint(path, lambda stream: torch.save(state, stream), state.get("done"), keep)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint to the CPU, without running code from it.

    Raises:
        CheckpointReadError: The file is not as it was written, or is no checkpoint of a run.
    """
    try:
        state = files.read_checkpoint(path)
    except (OSError, ValueError) as error:
        raise CheckpointReadError(str(error)) from error
    if "model" not in state:
        raise CheckpointReadError(f"cannot read checkpoint {path}: it holds no weights under 'model'.")
    return state


def newest_sound(folder: Path, *, adopt: bool = False) -> Choice:
    """The last checkpoint, or the one before where that is damaged.

    Args:
        folder: Of the run.
        adopt: Whether a run in this folder is going to train, and has claimed it.

    Returns:
        Its path is None where there is no checkpoint.

    Raises:
        CheckpointReadError: There are checkpoints, and none is sound.
    """
    found = [folder / name for name in (LAST, PREVIOUS) if (folder / name).is_file()]
    try:
        return choose_newest(found, read_checkpoint, lambda path: None, folder, adopt=adopt)
    except ValueError as error:
        raise CheckpointReadError(str(error)) from error
