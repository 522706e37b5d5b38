"""Checkpoints and configs for MMEngine, read without running code from those that are data.

MMEngine reads checkpoints by ``torch.load``, whose defaults differ by release, and evaluates a configuration that it
finds in a checkpoint as Python; from YAML it makes any Python object. From the import of this module on, checkpoints go
through the one reader of this package, and YAML is plain data. Python configs run, as they are meant to.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import yaml
from mmengine.fileio import YamlHandler, register_handler
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from ndpp_dense.redaction import redacted
from ndpp_dense.weights.files import read_checkpoint, weights_in
from ndpp_dense.weights.restricted import TrainingLog
from ndpp_dense.zoo.download import local_copy

__all__ = ["PlainYaml", "load_from_address", "load_from_elsewhere", "load_from_local"]


@register_handler(["yaml", "yml"])
class PlainYaml(YamlHandler):
    """Reads YAML as plain data; tags that make Python objects are errors."""

    def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
        """Reads an open file."""
        return super().load_from_fileobj(file, Loader=yaml.SafeLoader)


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
    content: dict[str, Any] = read_checkpoint(path)
    if path.suffix.lower() == ".safetensors":
        return {"state_dict": content["model"]}
    if "state_dict" not in content:
        with suppress(ValueError):  # what takes its entries judges them
            content = {"state_dict": weights_in(content)[1]}
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


def load_from_address(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Fetches a file, or takes what was fetched before, and reads it as :func:`load_from_local` does.

    Args:
        filename: http or https address.
        map_location: Not used.

    Raises:
        ZooError: It cannot be had.
        WeightFileError: It cannot be read, or asks for more than plain data.
    """
    return load_from_local(str(local_copy(filename)))


def load_from_elsewhere(filename: str, map_location: Any = None) -> NoReturn:
    """Refuses places that MMEngine would read by its own, unrestricted ways.

    Raises:
        ValueError: Always.
    """
    raise ValueError(
        f"{redacted(filename)}: checkpoints are read from files, http(s) addresses and ndpp://NAME. Copy it to one of "
        "these."
    )


for _scheme in [scheme for scheme in CheckpointLoader._schemes if scheme != "ndpp://"]:
    CheckpointLoader.register_scheme(_scheme, load_from_elsewhere, force=True)
CheckpointLoader.register_scheme(["http://", "https://"], load_from_address, force=True)
CheckpointLoader.register_scheme("", load_from_local, force=True)
