"""Where fetched files are kept: by the hash of their bytes, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ndpp_dense.zoo.errors import ZooError

__all__ = ["Cache", "default_home", "file_sha256"]

_BLOCK = 1 << 20
_PATIENCE = 3600.0  # seconds that one process waits for another that fetches the same file


def default_home() -> Path:
    """``$NDPP_HOME``, else a folder in ``~/.cache``."""
    home = os.environ.get("NDPP_HOME")
    return Path(home).expanduser() if home else Path.home() / ".cache" / "ndpp_dense"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


class Cache:
    """The folder ``<home>/blobs``: one file for each SHA-256, ``.part`` files beside them, and locks.

    Args:
        home: ``$NDPP_HOME``; None takes :func:`default_home`.
    """

    def __init__(self, home: str | os.PathLike[str] | None = None) -> None:
        self.home = Path(home) if home is not None else default_home()
        self.blobs = self.home / "blobs"

    def blob(self, sha256: str) -> Path:
        """Path of the file with these bytes, whether or not it is there."""
        return self.blobs / sha256

    def part(self, sha256: str) -> Path:
        """Path of what has been fetched of it so far."""
        return self.blobs / f"{sha256}.part"

    def holds(self, sha256: str) -> bool:
        """Whether the file is there and has these bytes, which are read for it."""
        blob = self.blob(sha256)
        try:
            return blob.is_file() and file_sha256(blob) == sha256
        except OSError as error:
            raise ZooError(f"cannot read {blob} ({error}). Set NDPP_HOME to a folder that you can use.") from error

    @contextmanager
    def locked(self, sha256: str) -> Iterator[None]:
        """Keeps other processes from fetching the same file; the system frees the lock of one that was killed.

        Raises:
            ZooError: The folder cannot be written, or the lock is not had within an hour.
        """
        from filelock import FileLock, Timeout

        try:
            self.blobs.mkdir(parents=True, exist_ok=True)
            path = self.blobs / f"{sha256}.lock"
            if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
                raise ZooError(f"the lock {path} is a link or no file: remove it, or set NDPP_HOME to another folder.")
            lock = FileLock(path)
            lock.acquire(timeout=_PATIENCE)
        except Timeout as error:
            raise ZooError(
                f"another process has held {self.blobs / sha256}.lock for {_PATIENCE / 60:.0f} minutes: end it."
            ) from error
        except OSError as error:
            raise ZooError(
                f"cannot write to the cache {self.blobs} ({error}). Set the environment variable NDPP_HOME to a folder "
                "that you can write to."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def prune(self, keep: set[str], older_than: float = 0.0) -> list[tuple[Path, int]]:
        """Removes what no row asks for: other blobs, unfinished parts and views; not what a process is fetching.

        Args:
            keep: SHA-256 of the blobs that stay.
            older_than: Seconds since the last change that a file must have lain there.

        Returns:
            What was removed, with its size in bytes.
        """
        removed = []
        folders = [folder for folder in (self.blobs, self.home / "views") if folder.is_dir()]
        for path in sorted(path for folder in folders for path in folder.rglob("*") if not path.is_dir()):
            stat = path.lstat()
            spared = path.name in keep or path.suffix == ".lock" or self._is_being_fetched(path)
            if not spared and time.time() - stat.st_mtime >= older_than:
                path.unlink()
                removed.append((path, stat.st_size))
        return removed

    def _is_being_fetched(self, path: Path) -> bool:
        from filelock import FileLock, Timeout

        lock = path.with_name(f"{path.name.split('.')[0]}.lock")
        if lock.is_symlink() or not lock.is_file():
            return False
        try:
            with FileLock(lock, timeout=0):
                return False
        except Timeout:
            return True
