"""Checkpoints of MMEngine's runs: written whole and with a seal, and the newest sound one chosen for resuming."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.fileio import register_backend
from mmengine.fileio.backends import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.registry import HOOKS

from ndpp_dense.integrations.mmengine.reading import load_from_local
from ndpp_dense.training.checkpoint_files import choose_newest, save_checkpoint

__all__ = ["CHECKPOINTS", "NDPPCheckpointBackend", "NDPPCheckpointHook", "newest_sound"]

CHECKPOINTS = ("iter_*.pth", "epoch_*.pth", "best_*.pth")  # patterns of a run's files
_PERIODIC = re.compile(r"(?:iter|epoch)_(\d+)\.pth")
_POINTER = "last_checkpoint"
_BACKEND = "ndpp_checkpoints"


class NDPPCheckpointBackend(LocalBackend):
    """MMEngine's way to local files, but that a file is there whole, with a seal, or not at all."""

    def put(self, obj: bytes, filepath: str | os.PathLike[str]) -> None:
        """Writes the bytes of a ``torch.save``."""
        path = Path(filepath)
        save_checkpoint(path, lambda stream: stream.write(obj), _step_of(path))


register_backend(_BACKEND, NDPPCheckpointBackend, force=True)


@HOOKS.register_module()
class NDPPCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook with files that survive a kill and a full disk.

    MMEngine writes in place, and deletes the checkpoint before the one that takes its place is written.

    Args:
        **options: Of :class:`mmengine.hooks.CheckpointHook`.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        if not options.get("backend_args") and not options.get("file_client_args"):
            options["backend_args"] = {"backend": _BACKEND}
        super().__init__(*args, **options)

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict[str, Any]) -> None:
        with self._deleting_last():
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Any, metrics: dict[str, Any]) -> None:
        with self._deleting_last():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _deleting_last(self) -> Iterator[None]:
        backend = self.file_backend
        waiting = _Waiting(backend)
        self.file_backend = waiting
        try:
            yield
        finally:
            self.file_backend = backend
        best = [getattr(self, "best_ckpt_path", None), *getattr(self, "best_ckpt_path_dict", {}).values()]
        current = {self.last_ckpt, *best}
        for path in waiting.doomed:
            if path not in current:  # the same name written anew
                backend.remove(path)


class _Waiting:
    """A file backend that only takes note of what is to be removed."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.doomed: list[str] = []

    def remove(self, path: str) -> None:
        self.doomed.append(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def newest_sound(folder: str | Path, *, adopt: bool = False) -> str | None:
    """The last checkpoint of a work dir, or the one before where that is damaged, which is then logged.

    Args:
        folder: A work dir; it need not exist.
        adopt: Whether a run in this folder is going to train, and has claimed it.

    Returns:
        Its path; None where there is no checkpoint.

    Raises:
        ValueError: There are checkpoints, and none is sound.
    """
    folder = Path(folder)
    named, files = _named(folder), _candidates(folder)
    if named is not None and not named.is_file():
        if not files:
            raise ValueError(
                f"{folder / _POINTER} names {named.name!r}, which is not there, and there is no other checkpoint. "
                "Copy one back, or start again in another folder without --resume."
            )
        _warn(f"{folder / _POINTER} is damaged: it names {named.name!r}, which is not there.")
    found = choose_newest(files, _load, _step_of, folder, adopt=adopt)
    if found.report:
        _warn(found.report)
    return None if found.path is None else str(found.path)


def _named(folder: Path) -> Path | None:
    """What ``last_checkpoint`` names, whatever is in it; None where there is no such file."""
    pointer = folder / _POINTER
    if not pointer.is_file():
        return None
    return folder / Path(pointer.read_text(errors="replace").strip("\0 \n\r\t")).name


def _candidates(folder: Path) -> list[Path]:
    """What ``last_checkpoint`` names, then the others, the furthest first."""
    files = [file for file in folder.glob("*.pth") if _PERIODIC.fullmatch(file.name)]
    named = _named(folder)
    return sorted(files, key=lambda file: (file == named, _step_of(file) or 0), reverse=True)


def _step_of(path: Path) -> int | None:
    found = _PERIODIC.fullmatch(path.name)
    return int(found[1]) if found else None


def _load(file: Path) -> None:
    if "state_dict" not in load_from_local(str(file)):
        raise ValueError("it holds no weights")


def _warn(message: str) -> None:
    print_log(message, logger="current", level=logging.WARNING)
