"""Checkpoints for MMEngine, read without running code from them.

MMEngine reads by ``torch.load``, whose defaults differ by release, and evaluates a configuration that it finds in a
checkpoint as Python. From the import of this module on, files go through the one reader of this package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from ndpp_dense.weights.files import read_checkpoint
from ndpp_dense.weights.restricted import TrainingLog

__all__ = ["load_from_local"]


def load_from_local(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Reads a file as MMEngine has checkpoints; what runs the code of a configuration is left out.

    Args:
        filename: Of any kind that :func:`ndpp_dense.weights.files.read_checkpoint` knows.
        map_location: Not used: everything stays on the CPU, and is copied from there into models and optimizers.

    Raises:
        FileNotFoundError: There is no such file.
        WeightFileError: It cannot be read, or asks for more than plain data.
    """
    path = Path(filename).expanduser()
    content = read_checkpoint(path)
    if path.suffix.lower() == ".safetensors":
        return {"state_dict": content["model"]}
    meta, hub = content.get("meta"), content.get("message_hub")
    if isinstance(meta, dict):
        meta.pop("config", None)  # a Python file as text: a resumed Runner would execute it
    if isinstance(hub, dict) and isinstance(hub.get("log_scalars"), dict):
        hub["log_scalars"] = {name: _restored(log) for name, log in hub["log_scalars"].items()}
    return content


def _restored(log: Any) -> Any:
    if not isinstance(log, TrainingLog):
        return log
    found = vars(log)
    try:
        return HistoryBuffer(found["_log_history"], found["_count_history"], int(found["max_length"]))
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"the checkpoint holds a training log that is none: {error!r:.200}.") from error


CheckpointLoader.register_scheme("", load_from_local, force=True)
