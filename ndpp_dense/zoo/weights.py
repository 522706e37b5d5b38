"""Weights from verified bytes: what is checked is what is read."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ndpp_dense.weights.restricted import read_torch
from ndpp_dense.zoo.errors import ZooError
from ndpp_dense.zoo.index import ZooIndex, load_index
from ndpp_dense.zoo.mismatches import mismatches
from ndpp_dense.zoo.packing import unpack
from ndpp_dense.zoo.resolver import resolved_bytes
from ndpp_dense.zoo.rows import ZooFile, ZooModel

__all__ = ["FACTS", "Checkpoint", "load_checkpoint", "load_into", "load_own", "read_verified"]

FACTS = "ndpp_dense"  # the entry of a file's metadata that this package writes
_CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model_state", "model")


@dataclass(frozen=True)
class Checkpoint:
    """Weights of the model zoo.

    Attributes:
        model: The row of the index.
        path: The file.
        weights: The state dictionary, in float32 on the CPU.
        facts: What was noted in the file.
        sha256: Of the bytes that the weights are of.
    """

    model: ZooModel
    path: Path
    weights: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""


def load_checkpoint(
    name: str, model: nn.Module | None = None, *, strict: bool = True, index: ZooIndex | None = None
) -> Checkpoint:
    """Loads weights of the model zoo: from the package, the cache, or the network.

    In a distributed run all ranks must call it.

    Args:
        name: ``NAME`` or ``ndpp://NAME``; ``ndpp zoo list`` shows all.
        model: Takes the weights if given.
        strict: Refuse weights that do not fit the model in every name and shape; else what fits is loaded.
        index: None reads the index of the package.

    Returns:
        The weights, with what is known about them.

    Raises:
        ZooError: There are no such weights, they cannot be had whole, or they do not fit; says what to do.
    """
    index = index or load_index()
    row = index.find(name)
    file = _file_of(row)
    path, data = resolved_bytes(name, index=index)
    weights, facts = _read(data, path, file)
    if model is not None:
        load_into(model, weights, row.name, strict=strict)
    return Checkpoint(row, path, weights, facts, file.sha256)


def load_own(model: nn.Module, weights: Mapping[str, Tensor], file: Path, config: Path) -> None:
    """Loads weights of a user's own run, all of them.

    Raises:
        ValueError: They are not those of the model; says how many are, and what to do.
    """
    table = mismatches(weights, model.state_dict())
    if table:
        raise ValueError(
            f"{file} does not fit the model of {config}: {table.splitlines()[-1]}. Give the config that it was trained "
            "with: --config FILE."
        )
    model.load_state_dict(dict(weights), strict=False)


def load_into(model: nn.Module, weights: Mapping[str, Tensor], name: str, *, strict: bool = True) -> str:
    """Loads weights into a model.

    Args:
        model: Where to.
        weights: By name.
        name: Of the weights, for messages.
        strict: Refuse weights that do not fit; the model is then left as it was.

    Returns:
        A table of what did not fit; empty where all did.

    Raises:
        ZooError: They do not fit; holds the table.
    """
    state = model.state_dict()
    table = mismatches(weights, state)
    if table and strict:
        raise ZooError(
            f"{name} does not fit {type(model).__name__}; nothing was loaded:\n{table}\n"
            "Build the model from the config of the row (`ndpp zoo info NAME`), or load what fits with strict=False."
        )
    fitting = {key: value for key, value in weights.items() if key in state and state[key].shape == value.shape}
    model.load_state_dict(fitting, strict=False)
    return table


def read_verified(path: Path, file: ZooFile) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a file of weights if its bytes are the right ones; nothing in it is executed.

    Args:
        path: The file.
        file: Its row: hash, size and format.

    Returns:
        The weights, unpacked, and what was noted in the file.

    Raises:
        ZooError: The bytes are others, or are no weights.
    """
    try:
        data = path.read_bytes() if path.stat().st_size == file.size else b""  # what is larger need not be held
    except OSError as error:
        raise ZooError(f"cannot read {path}: {error}.") from error
    found = hashlib.sha256(data).hexdigest()
    if found != file.sha256:
        raise ZooError(
            f"{path} has {len(data)} bytes with SHA-256 {found[:12]}..., not {file.size} with {file.sha256[:12]}...: "
            "it is damaged or was changed. Remove it; it is then fetched again."
        )
    return _read(data, path, file)


def _read(data: bytes, path: Path, file: ZooFile) -> tuple[dict[str, Tensor], dict[str, Any]]:
    entries, facts = (_read_safetensors if file.format == "safetensors" else _read_torch)(data, path)
    return unpack(entries, facts), facts


def _read_safetensors(data: bytes, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    import safetensors
    import safetensors.torch

    try:
        entries = safetensors.torch.load(data)
        head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        facts = json.loads(head.get("__metadata__", {}).get(FACTS, "{}"))
    except (safetensors.SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise ZooError(f"{path} is no file of weights in the format safetensors: {error}.") from error
    return entries, facts if isinstance(facts, dict) else {}


def _read_torch(data: bytes, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        content = read_torch(io.BytesIO(data))
    except Exception as error:  # a damaged file can make torch raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ZooError(f"{path} is refused: it is no file of weights of torch: {reason}.") from error
    inner = next((content[key] for key in _CONTAINERS if isinstance(content, dict) and key in content), content)
    if not isinstance(inner, dict) or not inner or not all(torch.is_tensor(value) for value in inner.values()):
        raise ZooError(f"{path} holds no weights by name.")
    return inner, {}


def _file_of(row: ZooModel) -> ZooFile:
    if row.weights is None:
        raise ZooError(f"{row.name} has no weights yet, only a recipe: {row.recipe}")
    return row.weights
