"""Files that say what was written: a hash at the end of a zip file, where other readers do not look.

torch's and NumPy's files are zip files. Their readers skip the comment at the end of one, which here holds a SHA-256 of
everything before it, and who wrote the file. So a sealed file stays one file: it can be copied, and loads everywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ndpp_dense.atomic_file import replacing

__all__ = ["DamagedFileError", "check_seal", "read_seal", "write_sealed"]

_MARK = b"ndpp_dense seal "
_START = b"PK\x03\x04"
_END = b"PK\x05\x06"  # of the record that ends a zip file, 22 bytes with the comment's length last
_END_SIZE, _LONGEST = 22, 0xFFFF
_CHUNK = 1 << 20
_SUM = "sha256"


class DamagedFileError(ValueError):
    """The bytes of a file are not those that were written."""


def write_sealed(
    path: str | os.PathLike[str],
    write: Callable[[BinaryIO], Any],
    facts: Mapping[str, Any],
    keep: str | os.PathLike[str] | None = None,
) -> None:
    """Writes a zip file with a seal: a kill at any moment leaves either the former file or the new one.

    Args:
        path: File to write; its folder is created if absent.
        write: Writes a zip file without a comment to a stream, as ``torch.save`` and ``numpy.savez`` do.
        facts: What the seal says besides the hash, as JSON can hold it.
        keep: Where the former file goes; between the two renames it is the only one.

    Raises:
        OSError: The file could not be written, the disk is full, say; the former one is as it was.
        ValueError: ``write`` wrote no zip file.
    """
    final = Path(path)
    _remove_leftovers(final)
    with replacing(final) as made:
        with made.open("wb") as file:
            _write(file, write, facts)
        if keep is not None and final.exists():
            final.replace(keep)


def read_seal(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What the seal of a file says, without a look at the rest; None where there is no readable one."""
    try:
        with Path(path).open("rb") as file:
            _, seal = _end_of(file)
    except (OSError, DamagedFileError):
        return None
    return seal


def check_seal(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Reads a file and compares it with what was written.

    Returns:
        What the seal says; None where the file has none.

    Raises:
        DamagedFileError: The file is not what was written.
        OSError: The file cannot be read.
    """
    with Path(path).open("rb") as file:
        head = file.read(4)
        if not head:
            raise DamagedFileError("it is empty")
        try:
            end, seal = _end_of(file)
        except DamagedFileError:
            if head != _START:  # weights of another format may look like the end of a zip file by chance
                return None
            raise
        if seal is None:
            if head == _START and not end:
                raise DamagedFileError("it has no end: it is truncated or damaged")
            return None
        found = _digest(file, end + _END_SIZE - 2, seal)
    if found != seal[_SUM]:
        raise DamagedFileError("its bytes are not those that were written (SHA-256)")
    return seal


class _Hashed:
    """A stream that hashes what is written, and remembers why writing failed.

    torch answers a failed write with an error of its own that says nothing of the cause.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.hash = hashlib.sha256()
        self.error: OSError | KeyboardInterrupt | None = None
        self._tail = b""

    def write(self, data: Any) -> int:
        try:
            return self._write(data)
        except (OSError, KeyboardInterrupt) as error:
            self.error = self.error or error
            raise

    def _write(self, data: Any) -> int:
        count = self._file.write(data)
        # The last bytes are hashed at the end: the length of the comment is among them.
        view = memoryview(data).cast("B")
        if len(view) < _END_SIZE:
            view = memoryview(self._tail + view)
        else:
            self.hash.update(self._tail)
        self.hash.update(view[:-_END_SIZE])
        self._tail = bytes(view[-_END_SIZE:])
        return count

    def flush(self) -> None:
        self._file.flush()

    def end(self) -> None:
        """Hashes the record that ends the file, but for the length of its comment."""
        if len(self._tail) < _END_SIZE or not self._tail.startswith(_END) or not self._tail.endswith(b"\0\0"):
            raise ValueError("write_sealed takes a zip file without a comment.")
        self.hash.update(self._tail[:-2])


def _write(file: BinaryIO, write: Callable[[BinaryIO], Any], facts: Mapping[str, Any]) -> None:
    stream = _Hashed(file)
    try:
        write(stream)  # type: ignore[arg-type]
    except Exception as error:
        if stream.error is not None and error is not stream.error:
            raise stream.error from error
        raise
    stream.end()
    stream.hash.update(_text(facts))
    comment = _MARK + _text({**facts, _SUM: stream.hash.hexdigest()})
    if len(comment) > _LONGEST:
        raise ValueError(f"the facts of a seal take {len(comment)} bytes; {_LONGEST} fit.")
    file.seek(-2, os.SEEK_END)
    file.write(len(comment).to_bytes(2, "little") + comment)
    file.flush()
    os.fsync(file.fileno())  # on the disk, not in a cache, before it takes its name


def _text(facts: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(facts), sort_keys=True).encode("ascii")


def _end_of(file: BinaryIO) -> tuple[int, dict[str, Any] | None]:
    """Where the last record of a zip file begins (0 where it is none), and its seal if there is one."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - _END_SIZE - _LONGEST)
    file.seek(start)
    tail = file.read()
    place = tail.rfind(_END)
    if place < 0 or place + _END_SIZE > len(tail):
        return 0, None
    length, comment = tail[place + _END_SIZE - 2 : place + _END_SIZE], tail[place + _END_SIZE :]
    if not comment and length == b"\0\0":
        return start + place, None
    try:
        if int.from_bytes(length, "little") != len(comment) or not comment.startswith(_MARK):
            raise ValueError
        seal = json.loads(comment.removeprefix(_MARK))
        if not isinstance(seal, dict) or not isinstance(seal.get(_SUM), str):
            raise ValueError
    except ValueError as error:
        raise DamagedFileError("its end is not what was written") from error
    return start + place, seal


def _digest(file: BinaryIO, size: int, seal: Mapping[str, Any]) -> str:
    found = hashlib.sha256()
    file.seek(0)
    while size:
        chunk = file.read(min(size, _CHUNK))
        if not chunk:
            break
        found.update(chunk)
        size -= len(chunk)
    found.update(_text({name: value for name, value in seal.items() if name != _SUM}))
    return found.hexdigest()


def _remove_leftovers(final: Path) -> None:
    """Removes what killed processes left of files with this name but for its number."""
    for leftover in final.parent.glob(f".{re.sub('[0-9]+', '*', final.name)}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
