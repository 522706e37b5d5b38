"""Writes a file so that readers see the old one or the whole new one."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["DISK_FULL", "replacing"]

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's share of it, the limit of a file's size


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a path beside `path` to write to; on success it takes `path`'s place, on failure it is removed.

    Args:
        path: the file to write; its folder is created if absent.

    Yields:
        A path in the same folder with the same suffix.

    Raises:
        OSError: The file could not be written; where the disk is full, it says so and names the file.
    """
    final = Path(path)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        # The folder is private to this user, the file inside it gets the user's umask like any other.
        with tempfile.TemporaryDirectory(dir=final.parent, prefix=f".{final.name}-") as scratch:
            made = Path(scratch) / final.name
            yield made
            made.replace(final)
    except OSError as error:
        if error.errno not in (*DISK_FULL, errno.EIO):
            raise
        what = f"{error.strerror or error}: {final.name} was not written, files written before are whole"
        raise OSError(error.errno, what, str(final)) from error
