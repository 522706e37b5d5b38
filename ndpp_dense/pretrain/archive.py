"""The images in a tar file, by where their bytes lie: nothing is unpacked."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from timm.utils.misc import natural_key

from ndpp_dense.images.folders import SUFFIXES, count_left_out, is_hidden

__all__ = ["Archive", "check_end", "read_archive"]

_MOST_LINKS = 40  # one after the other, as Linux follows
_TAIL = 1 << 20  # bytes behind the end that are looked at

Span = tuple[int, int]  # first byte and length


@dataclass(frozen=True)
class Archive:
    """What a tar file holds.

    Attributes:
        images: Span by path in the file, in the natural order of paths.
        left_out: One line: how many other files of which kind were left out, and why; empty where there are none.
    """

    images: dict[str, Span]
    left_out: str


@dataclass
class _Members:
    """Members of a tar file and of those within it, by normalised path; of equal paths the last counts, as for tar."""

    spans: dict[str, Span] = field(default_factory=dict)
    hard: dict[str, str] = field(default_factory=dict)  # path that each link means
    symbolic: dict[str, str] = field(default_factory=dict)
    sparse: set[str] = field(default_factory=set)

    def span(self, name: str) -> Span | None:
        """Where the bytes of a path lie, links followed within the file; None where they lead nowhere."""
        for _ in range(_MOST_LINKS):
            if name in self.spans:
                return self.spans[name]
            following = self.hard.get(name, self.symbolic.get(name))
            if following is None:
                return None
            name = following
        return None


def read_archive(path: str | Path) -> Archive:
    """Lists the images of a tar file, those in tar files within it (which count as folders), and hard and soft links.

    Args:
        path: An uncompressed tar file.

    Raises:
        OSError: It cannot be read.
        tarfile.TarError: It is no tar file, breaks off, or goes on behind its end.
    """
    members = _Members()
    with open(path, "rb") as stream:
        for prefix, info, start in _walk(stream):
            _keep(members, prefix, info, start)
    hidden, others, broken = [], [], []
    images: dict[str, Span] = {}
    for name in [*members.spans, *members.hard, *members.symbolic, *members.sparse]:
        span = members.span(name)
        if any(map(is_hidden, PurePosixPath(name).parts)):
            hidden.append(name)
        elif PurePosixPath(name).suffix.lower() not in SUFFIXES and (span or name not in members.symbolic):
            others.append(name)
        elif span is None:
            broken.append(name)
        else:
            images[name] = span
    ordered = sorted(images, key=lambda name: (natural_key(posixpath.basename(name)), name))
    ordered.sort(key=lambda name: natural_key(posixpath.dirname(name)))
    return Archive({name: images[name] for name in ordered}, count_left_out(hidden, others, broken))


def _walk(stream: IO[bytes], prefix: str = "", start: int = 0) -> Iterator[tuple[str, tarfile.TarInfo, int]]:
    """Yields the folder that each member's tar file counts as, the member, and where that file begins."""
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        for info in tar:
            inner = tar.extractfile(info) if info.isreg() and info.name.lower().endswith(".tar") else None
            if inner is not None:
                folder = posixpath.join(prefix, info.name[: -len(".tar")])
                yield from _walk(inner, folder, start + info.offset_data)
            elif info.isreg() or info.islnk() or info.issym():
                yield prefix, info, start
        check_end(stream, tar.offset)


def check_end(stream: IO[bytes], end: int) -> None:
    """Refuses a tar file whose end is none: tarfile takes a damaged header, or no header, for it.

    Raises:
        tarfile.ReadError: It breaks off, or goes on behind its end.
    """
    stream.seek(end)
    tail = stream.read(_TAIL)
    if not tail:
        raise tarfile.ReadError("it breaks off: its end is not marked. Copy it again")
    if any(tail):
        raise tarfile.ReadError(f"a damaged header, or a second tar file, begins at byte {end}. Copy or pack it again")


def _keep(members: _Members, prefix: str, info: tarfile.TarInfo, start: int) -> None:
    name = posixpath.normpath(posixpath.join(prefix, info.name))
    for kind in (members.spans, members.hard, members.symbolic):
        kind.pop(name, None)
    members.sparse.discard(name)
    if info.islnk():
        members.hard[name] = posixpath.normpath(posixpath.join(prefix, info.linkname))
    elif info.issym():
        members.symbolic[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), info.linkname))
    elif info.issparse():  # its bytes do not lie in one piece
        members.sparse.add(name)
    else:
        members.spans[name] = (start + info.offset_data, info.size)
