"""A model's weights as a file that frameworks read by themselves."""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
from pathlib import Path

import torch

from ndpp_dense.atomic_file import replacing
from ndpp_dense.zoo.cache import Cache
from ndpp_dense.zoo.ranks import once_a_node
from ndpp_dense.zoo.weights import load_checkpoint

__all__ = ["torch_view"]

_log = logging.getLogger(__name__)
_written: dict[str, Path] = {}  # by name; those of earlier processes are not trusted


def torch_view(name: str) -> Path:
    """A ``.pth`` with the weights under ``"model"``, unpacked, as Detectron2's and other checkpointers read it.

    Written anew from verified bytes by every process that asks, once. In a distributed run all ranks must call it.

    Args:
        name: ``NAME`` or ``ndpp://NAME``.

    Raises:
        ZooError: See :func:`ndpp_dense.zoo.load_checkpoint`.
    """
    if name not in _written or not _written[name].is_file():
        checkpoint = load_checkpoint(name)
        content = {"model": checkpoint.weights, "__author__": "ndpp_dense"}
        file_name = f"{checkpoint.model.name}-{checkpoint.model.version}.pth"
        _written[name] = once_a_node(lambda: _write(content, file_name), str(Cache().home))
    return _written[name]


def _write(content: dict, file_name: str) -> Path:
    try:
        return _saved(content, Cache().home / "views" / file_name)
    except OSError as error:
        folder = Path(tempfile.mkdtemp(prefix="ndpp-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        _log.info("%s: writing to %s instead", error, folder)
        return _saved(content, folder / file_name)


def _saved(content: dict, path: Path) -> Path:
    with replacing(path) as made:
        torch.save(content, made)
    return path
