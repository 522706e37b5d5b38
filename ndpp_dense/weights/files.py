"""Files of weights as frameworks publish them: read without running code from them, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ndpp_dense.atomic_file import replacing

__all__ = ["SUFFIXES", "WeightFile", "WeightFileError", "read_weights", "write_weights"]

SUFFIXES = (".pth", ".safetensors")  # that are written
_FACTS = "ndpp_dense"  # the entry that says where weights are from
# Where checkpoints of timm, Detectron2, MMEngine and of this package keep weights; averaged ones first.
_CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model_state", "model")
_PICKLED = {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}
# What torch.load, pickle and json raise on truncated, foreign or overwritten files.
_READ_ERRORS = (RuntimeError, EOFError, OSError, LookupError, TypeError, ValueError, pickle.UnpicklingError)


class WeightFileError(ValueError):
    """A file of weights is truncated, corrupt or of an unknown kind."""


@dataclass(frozen=True)
class WeightFile:
    """What a file of weights holds.

    Attributes:
        path: The file.
        sha256: Of its bytes.
        entries: Weights by name.
        container: Name of the entry that holds them; empty where they are the whole file.
        extras: The file's other entries.
        facts: What this package noted when it wrote the file; else empty.
    """

    path: Path
    sha256: str
    entries: dict[str, Tensor]
    container: str = ""
    extras: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def read_weights(path: str | os.PathLike[str]) -> WeightFile:
    """Reads weights to the CPU.

    Args:
        path: ``.safetensors``; ``.pkl`` with arrays, as in Detectron2's model zoo; anything else is a torch file.

    Raises:
        FileNotFoundError: There is no such file; the nearest names are given.
        WeightFileError: The file cannot be read or holds no weights.
        ModuleNotFoundError: The format needs a package that is not installed.
    """
    path = Path(path)
    if not path.is_file():
        names = os.listdir(path.parent) if path.parent.is_dir() else []
        near = get_close_matches(path.name, names, n=3)
        hint = f"nearest names there: {', '.join(near)}" if near else f"folder exists: {path.parent.is_dir()}"
        raise FileNotFoundError(f"weights {path} not found ({hint}).")
    readers = {".safetensors": _read_safetensors, ".pkl": _read_pickle}
    try:
        content = readers.get(path.suffix.lower(), _read_torch)(path)
        container, entries = _weights_in(content)
    except _READ_ERRORS as error:
        if isinstance(error, ModuleNotFoundError):
            raise
        reason = str(error).splitlines()[0].split(". ")[0] if str(error) else type(error).__name__
        raise WeightFileError(
            f"cannot read weights {path} ({path.stat().st_size} bytes): {reason}. The file is truncated, corrupt or "
            "holds more than tensors and numbers; copy or download it again, or name another."
        ) from error
    extras = {name: value for name, value in content.items() if container and name not in (container, _FACTS)}
    facts = content.get(_FACTS)
    return WeightFile(path, _sha256(path), entries, container, extras, facts if isinstance(facts, dict) else {})


def write_weights(
    path: str | os.PathLike[str],
    entries: Mapping[str, Tensor],
    container: str,
    facts: Mapping[str, Any],
    extras: Mapping[str, Any] | None = None,
) -> None:
    """Writes weights: a kill at any moment leaves either the former file or the new one.

    Args:
        path: ``.pth`` or ``.safetensors``; its folder is created if absent.
        entries: Weights by name.
        container: Name of the entry for them in a ``.pth``; empty makes them the whole file, without facts and extras.
        facts: Where they are from, as plain values that JSON can hold.
        extras: Further entries of a ``.pth`` with a container.

    Raises:
        ValueError: Another suffix.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"cannot write {path}: its name must end in {' or '.join(SUFFIXES)}.")
    # Of its own storage each: a view would be saved with all that it is a view of.
    own = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in entries.items()}
    with replacing(path) as made:
        if path.suffix.lower() == ".safetensors":
            _safetensors().torch.save_file(own, made, {"format": "pt", _FACTS: json.dumps(dict(facts))})
        else:
            whole = {container: own, **(extras or {}), _FACTS: dict(facts)} if container else own
            torch.save(whole, made)
        with made.open("rb") as stream:
            os.fsync(stream.fileno())  # on the disk, not in a cache, before it takes its name


def _read_torch(path: Path) -> dict[str, Any]:
    with _only_globals([*numpy_globals(), *_LOG_GLOBALS]):
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}")
    return content


@contextmanager
def _only_globals(allowed: list[Any]) -> Iterator[None]:
    """Lets torch read these classes alone, then those as before: its own ``safe_globals`` takes away what was there."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(allowed)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def numpy_globals() -> list[Any]:
    """What a pickle names to make arrays and numbers of NumPy, for ``torch.serialization.add_safe_globals``."""
    scalars = [np.float64(0).dtype, np.float32(0).dtype, np.int64(0).dtype, np.bool_(0).dtype]
    # Where NumPy keeps them has changed its name with NumPy 2: pickling an example tells.
    rebuild_array, rebuild_scalar = np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]
    return [np.ndarray, np.dtype, rebuild_array, rebuild_scalar, *map(type, scalars)]


class _TrainingLog:
    """Stands for MMEngine's ``HistoryBuffer``, of which its checkpoints are full beside the weights."""


def _log_method(log: type, name: str) -> str:
    """Takes the place of ``getattr``: a log names its methods so. Nothing is looked up."""
    return name


_LOG_GLOBALS = [(_TrainingLog, "mmengine.logging.history_buffer.HistoryBuffer"), (_log_method, "builtins.getattr")]


def _read_safetensors(path: Path) -> dict[str, Any]:
    module = _safetensors()
    try:
        with module.safe_open(path, framework="pt") as file:
            entries = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
            facts = (file.metadata() or {}).get(_FACTS)
    except module.SafetensorError as error:
        raise ValueError(str(error)) from error
    return {"model": entries, **({_FACTS: json.loads(facts)} if facts else {})}


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ModuleNotFoundError as error:
        message = "Reading and writing .safetensors needs the package safetensors: install ndpp-dense[pretrain]."
        raise ModuleNotFoundError(message, name="safetensors") from error
    return safetensors


class _ArrayUnpickler(pickle.Unpickler):
    """Makes arrays and containers only: a pickle can otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PICKLED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only arrays are read")
        return super().find_class(module, name)


def _read_pickle(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        content = _ArrayUnpickler(stream, encoding="latin1").load()
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}")
    return content


def _weights_in(content: Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    found = [name for name in _CONTAINERS if isinstance(content.get(name), Mapping) and content[name]]
    container = found[0] if found else ""
    values = content[container] if container else content
    others = [name for name, value in values.items() if not (torch.is_tensor(value) or hasattr(value, "__array__"))]
    if others or not values:
        holds = ", ".join(map(str, others[:5])) or "nothing"
        raise ValueError(f"it holds no weights but {holds}")
    # Arrays of a pickle may be read-only, which torch shares only under protest.
    tensors = {name: value if torch.is_tensor(value) else torch.tensor(value) for name, value in values.items()}
    return container, tensors


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
