"""Files of weights and checkpoints: read without running code from them, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ndpp_dense.atomic_file import replacing
from ndpp_dense.weights.restricted import ZIP, read_pickle, read_torch
from ndpp_dense.weights.seal import check_seal

__all__ = [
    "SUFFIXES",
    "WeightFile",
    "WeightFileError",
    "read_checkpoint",
    "read_weights",
    "weights_in",
    "write_weights",
]

_log = logging.getLogger(__name__)
SUFFIXES = (".pth", ".safetensors")  # that are written
_FACTS = "ndpp_dense"  # the entry that says where weights are from
# Where checkpoints of timm, Detectron2, MMEngine and of this package keep weights; averaged ones first.
_CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model_state", "model")
_HEAD = 512  # bytes that tell a text from weights
# What stands in place of weights where a download went wrong, by how it begins.
_IMPOSTORS = {
    ("<!doctype html", "<html", "<head", "<script"): "a web page: the address led to a page about the file, or to one "
    "that asks to sign in. Download the file itself, by its link 'download' or 'raw'",
    ("<?xml", "<error"): "an XML text, with which a server says that there is no such file or no permission. Correct "
    "the address, and download the file again",
    ("version https://git-lfs",): "a pointer of Git LFS, not what it points to. Fetch that with `git lfs pull`",
    ("{", "["): "a JSON text, such as an index or a server's error. Name the file of weights itself",
}


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


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads any file of weights, or checkpoint of a run, to the CPU. Nothing in it is executed.

    Every part of the package that reads such a file reads it by this function. Weights that hold NaN or infinity are
    warned of. Checkpoints of runs are compared with the hash that they carry.

    Args:
        path: ``.safetensors``; ``.pkl`` with arrays, as in Detectron2's model zoo; anything else is a torch file.

    Returns:
        What the file holds; of ``.safetensors``, the weights under ``"model"``.

    Raises:
        FileNotFoundError: There is no such file; the nearest names are given.
        WeightFileError: It is no file (but a folder, a pipe, ...), cannot be read, or asks for more than plain data.
        ModuleNotFoundError: The format needs a package that is not installed.
    """
    path = Path(path)
    _check_is_file(path)
    _refuse_texts(path)
    try:
        content = _read(path)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
    except ModuleNotFoundError:
        raise
    except Exception as error:  # a damaged file can make what reads it raise anything
        raise _unreadable(path, error) from error
    _warn_of_nonfinite(path, content)
    return content


def read_weights(path: str | os.PathLike[str]) -> WeightFile:
    """Reads weights to the CPU.

    Args:
        path: See :func:`read_checkpoint`.

    Raises:
        FileNotFoundError: There is no such file; the nearest names are given.
        WeightFileError: The file cannot be read or holds no weights.
        ModuleNotFoundError: The format needs a package that is not installed.
    """
    path = Path(path)
    content = read_checkpoint(path)
    try:
        container, entries = weights_in(content)
    except (ValueError, TypeError) as error:
        raise _unreadable(path, error) from error
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


def _check_is_file(path: Path) -> None:
    if path.is_file():
        return
    if path.exists():  # a pipe or a device would block, or never end
        kind = "a folder" if path.is_dir() else "a pipe, a socket or a device"
        raise WeightFileError(f"cannot read weights {path}: it is {kind}, not a file. Name the file of weights.")
    names = os.listdir(path.parent) if path.parent.is_dir() else []
    near = get_close_matches(path.name, names, n=3)
    hint = f"nearest names there: {', '.join(near)}" if near else f"folder exists: {path.parent.is_dir()}"
    raise FileNotFoundError(f"weights {path} not found ({hint}).")


def _refuse_texts(path: Path) -> None:
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    try:
        text = head.decode("utf-8-sig").lstrip().lower()
    except UnicodeDecodeError:
        return
    for starts, what in _IMPOSTORS.items():
        if text.startswith(starts):
            raise WeightFileError(f"cannot read weights {path} ({path.stat().st_size} bytes): it is {what}.")


def _unreadable(path: Path, error: Exception) -> WeightFileError:
    reason = str(error).splitlines()[0].split(". ")[0][:300] if str(error) else type(error).__name__
    return WeightFileError(
        f"cannot read weights {path} ({path.stat().st_size} bytes): {reason}. The file is truncated, corrupt or "
        "holds more than tensors and numbers; copy or download it again, or name another."
    )


def _read(path: Path) -> Any:
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    check_seal(path)
    with path.open("rb") as stream:
        whatever_its_name = stream.peek(len(ZIP)).startswith(ZIP)
        return read_pickle(stream) if path.suffix.lower() == ".pkl" and not whatever_its_name else read_torch(stream)


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


def weights_in(content: Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """The weights in what a file holds.

    Args:
        content: See :func:`read_checkpoint`.

    Returns:
        The name of the entry that holds them, empty where they are the whole; and the weights by name.

    Raises:
        ValueError: It holds none, or several entries could be meant.
    """
    found = [name for name in _CONTAINERS if isinstance(content.get(name), Mapping) and content[name]]
    if not found and not all(map(_is_array, content.values())):  # users' own names for it: "net", "model_state_dict"
        found = [
            name for name, value in content.items() if isinstance(value, Mapping) and value and _are_weights(value)
        ]
        if len(found) > 1:
            raise ValueError(
                f"it holds several entries of weights ({', '.join(map(str, found[:5]))}): save one of them"
            )
    container = found[0] if found else ""
    values = content[container] if container else content
    others = [name for name, value in values.items() if not _is_array(value)]
    if others or not values:
        holds = ", ".join(map(str, others[:5])) or "nothing"
        raise ValueError(f"it holds no weights but {holds}")
    # Arrays of a pickle may be read-only, which torch shares only under protest.
    tensors = {name: value if torch.is_tensor(value) else torch.tensor(value) for name, value in values.items()}
    return container, tensors


def _are_weights(entries: Mapping[str, Any]) -> bool:
    return all(isinstance(name, str) and _is_array(value) for name, value in entries.items())


def _is_array(value: Any) -> bool:
    """Whether it has content, which tensors on the meta device have not."""
    return value.device.type == "cpu" if torch.is_tensor(value) else hasattr(value, "__array__")


def _is_broken(value: Tensor) -> bool:
    if not value.is_floating_point() or value.layout is not torch.strided:
        return False
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():  # expanded: no more than a view
        return False
    known = value.half() if value.element_size() == 1 else value
    return not bool(known.isfinite().all())


def _warn_of_nonfinite(path: Path, content: Mapping[str, Any]) -> None:
    try:
        _, entries = weights_in(content)
    except (ValueError, TypeError):
        return  # a checkpoint of another layout: what takes its weights judges them
    broken = [name for name, value in entries.items() if _is_broken(value)]
    if broken:
        more = ", ..." if len(broken) > 3 else ""
        message = "weights %s: %d of %d hold NaN or infinity (%s%s); a model with them computes nothing of use"
        _log.warning(message, path, len(broken), len(entries), ", ".join(broken[:3]), more)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
