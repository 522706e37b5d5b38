"""The folder of a run: one run, and one process of it that writes, at a time."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ndpp_dense.atomic_file import replacing
from ndpp_dense.distributed.main_rank import decided_by_main

__all__ = ["RUN_FILE", "claimed", "note_run", "read_run"]

RUN_FILE = "run.json"  # whose checkpoints these are, and how far they go
_LOCK_FILE = "run.lock"
_SUM = "sha256"
_log = logging.getLogger(__name__)


@contextmanager
def claimed(
    folder: str | Path,
    checkpoints: Sequence[str],
    *,
    resume: bool,
    flag: str = "--output",
    kept_in: str | Path | None = None,
) -> Iterator[None]:
    """Inside the block the folder is this run's. All ranks enter it; the first one holds the lock for them.

    A process that ends in whatever way gives the lock back. A folder that only a start without checkpoints has written
    to is free.

    Args:
        folder: Of the run; created if absent.
        checkpoints: Patterns of the names of checkpoints there.
        resume: Whether the run goes on with what it finds.
        flag: The command line's word for another folder.
        kept_in: Where the checkpoints are; None for the folder itself.

    Raises:
        ValueError: Another process writes to the folder, or it holds a run and ``resume`` is not set.
    """
    place = Path(folder)
    held: list[TextIO] = []

    def claim() -> None:
        held.extend(_lock(place, flag))
        if not resume:
            _start_fresh(Path(kept_in or folder), checkpoints, flag)

    try:
        decided_by_main(claim)
        yield
    finally:
        for lock in held:
            lock.close()


def read_run(folder: Path) -> dict[str, Any]:
    """What the folder says of its run; empty where it says nothing, or is damaged.

    Returns:
        ``run`` is the run's name, ``sealed`` whether all of its checkpoints have a seal, ``step`` how many optimizer
        steps the newest checkpoint has, or was to have, and ``written`` whether there was a first.
    """
    try:
        found = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        stated = found.pop(_SUM)
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}
    return found if stated == _digest(found) and isinstance(found.get("run"), str) else {}


def note_run(folder: Path, **facts: Any) -> dict[str, Any]:
    """Writes down facts of the run of a folder; a run without a name gets one.

    Args:
        folder: Created if absent.
        **facts: See :func:`read_run`.

    Returns:
        All facts.
    """
    before = read_run(folder)
    after = {"run": uuid.uuid4().hex, "sealed": False, **before, **facts}
    if after != before:
        with replacing(folder / RUN_FILE) as made:
            made.write_text(json.dumps({**after, _SUM: _digest(after)}) + "\n", encoding="utf-8")
    return after


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()


def _start_fresh(folder: Path, checkpoints: Sequence[str], flag: str) -> None:
    found = sorted(file.name for pattern in checkpoints for file in folder.glob(pattern))
    if found:
        shown = ", ".join(found[:4]) + (", ..." if len(found) > 4 else "")
        raise ValueError(
            f"{folder} holds a run already ({shown}): continue it with --resume, or write to another folder with "
            f"{flag} FOLDER."
        )
    (folder / RUN_FILE).unlink(missing_ok=True)  # of a start that came to nothing
    note_run(folder, sealed=True)


def _lock(folder: Path, flag: str) -> list[TextIO]:
    """The locked file, which says who holds it; none where the file system keeps no locks.

    A lock of the process, not of the open file: loader processes, which outlive a killed run by seconds, do not
    inherit it, and file systems in a network know it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / _LOCK_FILE).open("a+", encoding="utf-8")
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        lock.seek(0)
        holder = " ".join(lock.read().split()) or "another process"
        lock.close()
        raise ValueError(
            f"{folder} is in use by {holder}: two runs would overwrite each other's files. Wait for it or end it, or "
            f"write to another folder with {flag} FOLDER."
        ) from None
    except OSError as error:
        lock.close()
        _log.warning("%s keeps no locks (%s): a second run in this folder would not be noticed.", folder, error)
        return []
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
    lock.flush()
    return [lock]
