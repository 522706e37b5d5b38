"""A file that is being fetched: what is there counts, is hashed as it grows, and is named only when it is whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from pathlib import Path
from types import TracebackType

from ndpp_dense.atomic_file import replacing
from ndpp_dense.zoo.errors import ZooError

__all__ = ["PartFile", "WrongBytesError"]

_BLOCK = 1 << 20


class WrongBytesError(ZooError):
    """What was fetched is longer or has another hash than it should."""


class PartFile:
    """``<blob>.part``, opened to go on where an earlier attempt ended.

    Args:
        path: The file.
        size: Bytes that it will have.

    Attributes:
        done: Bytes that are there.
        found: Bytes that were there when it was opened: what resuming saves.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self.done = self.found = 0
        self._note = path.with_suffix(".part.json")

    def __enter__(self) -> PartFile:
        # Unbuffered: what was written is in the file, also when this process is killed.
        self._stream = os.fdopen(_own_file(self.path), "ab+", buffering=0)
        try:
            self._read_what_is_there()
        except BaseException:
            self._stream.close()
            raise
        self.found = self.done
        return self

    def _read_what_is_there(self) -> None:
        self._digest = hashlib.sha256()
        self._stream.seek(0)
        while block := self._stream.read(_BLOCK):
            self._digest.update(block)
            self.done += len(block)
            if self.done > self.size:  # of something else
                self.restart()
                break

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stream.close()

    def write(self, block: bytes) -> None:
        """Adds bytes.

        Raises:
            WrongBytesError: There are more than there should be.
            ZooError: The disk is full.
        """
        if self.done + len(block) > self.size:
            raise WrongBytesError(f"it sends more than the {self.size} bytes that the file has")
        view = memoryview(block)
        try:
            while view:
                count = self._stream.write(view) or 0
                self._digest.update(view[:count])
                self.done += count
                view = view[count:]
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise DiskFullError(_full(self.path.parent, self.size - self.done)) from error
            raise

    def restart(self) -> None:
        """Forgets what is there."""
        self._stream.truncate(0)
        self._digest = hashlib.sha256()
        self.done = self.found = 0
        self._note.unlink(missing_ok=True)

    def validator(self, source: str) -> str:
        """What the server at this address called the version that the bytes are of; empty where unknown."""
        try:
            if self._note.is_symlink() or not self._note.is_file():
                return ""
            note = json.loads(self._note.read_text(encoding="utf-8"))
            return str(note["validator"]) if note["source"] == _digest(source) else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def remember(self, source: str, validator: str) -> None:
        """Notes it for :meth:`validator`, also of a later process: the address as a hash, since it may hold secrets."""
        with replacing(self._note) as made:
            made.write_text(json.dumps({"source": _digest(source), "validator": validator}), encoding="utf-8")

    def become(self, blob: Path, sha256: str) -> None:
        """Takes the final name, if the bytes are right, once they are on the disk.

        Raises:
            WrongBytesError: They are not; nothing is left of them.
        """
        found = self._digest.hexdigest()
        if found != sha256:
            self.restart()
            self.path.unlink(missing_ok=True)
            raise WrongBytesError(f"its SHA-256 is {found[:12]}..., not {sha256[:12]}...")
        os.fsync(self._stream.fileno())
        self.path.replace(blob)
        self._note.unlink(missing_ok=True)
        _sync_folder(blob.parent)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _own_file(path: Path) -> int:
    """Opens a file of a folder that others may write to: what they can put there must not lead to another file.

    Raises:
        ZooError: It is a link or no file.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EISDIR):
            raise ZooError(_foreign(path)) from error
        raise
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(handle)
        raise ZooError(_foreign(path))
    return handle


def _foreign(path: Path) -> str:
    return (
        f"{path} is a link or no file: it is not written to, since it may lead out of the cache. Remove it, or set "
        "NDPP_HOME to a folder of your own."
    )


class DiskFullError(ZooError):
    """There is no room: no other source would help."""


def _full(folder: Path, missing: int) -> str:
    return (
        f"the disk under {folder} is full: {missing} more bytes are needed. Make room (`ndpp zoo prune`), or set "
        "NDPP_HOME to a folder on another disk; what has been fetched is kept and gone on with."
    )


def _sync_folder(folder: Path) -> None:
    """Has the new name on the disk too."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
