"""A model's weights as a file that frameworks read by themselves."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import stat
import tempfile
from pathlib import Path

import torch

from ndpp_dense.atomic_file import replacing
from ndpp_dense.zoo.cache import Cache, file_sha256
from ndpp_dense.zoo.ranks import once_a_node
from ndpp_dense.zoo.weights import load_checkpoint

__all__ = ["torch_view"]

_log = logging.getLogger(__name__)
_written: dict[str, tuple[Path, str]] = {}  # by name, with the hash; those of earlier processes are not trusted


def torch_view(name: str) -> Path:
    """A ``.pth`` with the weights under ``"model"``, unpacked, as Detectron2's and other checkpointers read it.

    Written anew from verified bytes by every process that asks, once, into a folder that no other user can write to,
    under the hash of the weights. What it holds is checked again whenever it is asked for. In a distributed run all
    ranks must call it.

    Args:
        name: ``NAME`` or ``ndpp://NAME``.

    Raises:
        ZooError: See :func:`ndpp_dense.zoo.load_checkpoint`.
    """
    if name not in _written or not _is_whole(*_written[name]):
        checkpoint = load_checkpoint(name)
        content = {"model": checkpoint.weights, "__author__": "ndpp_dense"}
        file_name = f"{checkpoint.sha256}.pth"
        path = once_a_node(lambda: _write(content, file_name), str(Cache().home))
        _written[name] = (path, file_sha256(path))
    return _written[name][0]


def _is_whole(path: Path, sha256: str) -> bool:
    return path.is_file() and not path.is_symlink() and file_sha256(path) == sha256


def _write(content: dict, file_name: str) -> Path:
    try:
        return _saved(content, _own_folder(Cache().home / "views") / file_name)
    except OSError as error:
        folder = Path(tempfile.mkdtemp(prefix="ndpp-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        _log.info("%s: writing to %s instead", error, folder)
        return _saved(content, folder / file_name)


def _own_folder(views: Path) -> Path:
    """This user's folder below, which nobody else can write to.

    Raises:
        PermissionError: Somebody else has it, or could change what is in it.
    """
    folder = views / (str(os.getuid()) if hasattr(os, "getuid") else "own")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.lstat()
    own = not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & 0o022)
    if not stat.S_ISDIR(found.st_mode) or not own:
        raise PermissionError(f"{folder} is not this user's alone")
    return folder


def _saved(content: dict, path: Path) -> Path:
    with replacing(path) as made:
        torch.save(content, made)
    return path
