"""What an interrupted measurement has done, on disk: a file for each batch, whole or not there."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ndpp_dense.atomic_file import replacing

__all__ = ["PartialResults"]

_SETTINGS = "settings.json"


class PartialResults:
    """Results of batches in a folder, together with the settings that they are of.

    Args:
        folder: Made if absent.
        settings: Everything that decides the results, as JSON can hold it.

    Raises:
        ValueError: The folder holds results of other settings; names those that differ.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        wanted = json.loads(json.dumps(settings))  # tuples become lists, as they are when read
        path = self.folder / _SETTINGS
        if not path.is_file():
            with replacing(path) as made:
                made.write_text(json.dumps(wanted), encoding="utf-8")
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}): remove {self.folder} to start again.") from error
        other = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
        if other:
            raise ValueError(
                f"{self.folder} holds a part of another measurement ({', '.join(other)}: other values). Finish that "
                "one with its settings, remove the folder, or write to another one."
            )

    def read(self, number: int) -> dict[str, np.ndarray] | None:
        """The counts of a batch; None where they are not there or cannot be read."""
        try:
            # Opened here: NumPy leaves a damaged file open.
            with self._path(number).open("rb") as stream, np.load(stream, allow_pickle=False) as found:
                return {name: found[name] for name in found.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            return None

    def write(self, number: int, counts: Mapping[str, np.ndarray]) -> None:
        """Keeps the counts of a batch."""
        with replacing(self._path(number)) as made, made.open("wb") as stream:
            arrays: dict[str, Any] = dict(counts)
            np.savez_compressed(stream, **arrays)

    def _path(self, number: int) -> Path:
        return self.folder / f"batch_{number:06d}.npz"
