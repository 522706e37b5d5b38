"""What an interrupted measurement has done, on disk: a file for each batch, whole or not there."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ndpp_dense.atomic_file import replacing
from ndpp_dense.weights.seal import check_seal, write_sealed

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
        self._settings = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
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
        """The counts of a batch; None where they are not there, or are not what was written for it."""
        try:
            seal = check_seal(self._path(number))
            if seal is None or seal.get("number") != number or seal.get("settings") != self._settings:
                return None
            # Opened here: NumPy leaves a damaged file open.
            with self._path(number).open("rb") as stream, np.load(stream, allow_pickle=False) as found:
                return {name: found[name] for name in found.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            return None

    def write(self, number: int, counts: Mapping[str, np.ndarray]) -> None:
        """Keeps the counts of a batch."""
        arrays: dict[str, Any] = dict(counts)
        made = io.BytesIO()
        np.savez_compressed(made, **arrays)
        facts = {"number": number, "settings": self._settings}
        write_sealed(self._path(number), lambda stream: stream.write(made.getvalue()), facts)

    def _path(self, number: int) -> Path:
        return self.folder / f"batch_{number:06d}.npz"
