"""The images below a folder, and what else lies there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SUFFIXES", "FoundImages", "count_left_out", "find_images", "is_hidden"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_SHOWN = 3


@dataclass(frozen=True)
class FoundImages:
    """What a folder holds.

    Attributes:
        files: Images, in order of their paths.
        left_out: One line: how many other files of which kind were left out, and why; empty where there are none.
    """

    files: tuple[Path, ...]
    left_out: str


def find_images(folder: str | os.PathLike[str], suffixes: Sequence[str] = SUFFIXES) -> FoundImages:
    """Finds the images at any depth below a folder; links are followed, but not round in circles.

    Left out are names that begin with a dot (a desktop's or an editor's own, such as ``._a.jpg`` and
    ``.ipynb_checkpoints``), files of other suffixes, and links to nothing.

    Args:
        folder: Where to look.
        suffixes: Of images, in lower case with the dot.
    """
    files: list[Path] = []
    hidden: list[str] = []
    others: list[str] = []
    broken: list[str] = []
    real: dict[str, str] = {}
    for place, folders, names in os.walk(folder, followlinks=True):
        real[place] = os.path.realpath(place)
        above = [place[:end] for end, letter in enumerate(place) if letter == os.sep]
        if real[place] in [real.get(parent) for parent in above]:
            folders.clear()  # a link to a folder that it lies in
            continue
        hidden += [f"{name}{os.sep}" for name in folders if is_hidden(name)]
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(names):
            path = Path(place, name)
            if is_hidden(name):
                hidden.append(name)
            elif path.suffix.lower() not in suffixes:
                others.append(name)
            elif not path.is_file():
                broken.append(name)
            else:
                files.append(path)
    return FoundImages(tuple(sorted(files)), count_left_out(hidden, others, broken))


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is for a program, not for people."""
    return name.startswith(".")


def count_left_out(hidden: Sequence[str], others: Sequence[str], broken: Sequence[str] = ()) -> str:
    """Says in one line how many files of which kind were left out.

    Args:
        hidden: Names that begin with a dot.
        others: Names of other suffixes.
        broken: Names of links that lead nowhere.
    """
    parts = []
    if others:
        kinds = Counter(Path(name).suffix.lower() or "no suffix" for name in others).most_common(_SHOWN + 2)
        counts = ", ".join(f"{kind} {count}" for kind, count in kinds)
        parts.append(f"{len(others)} that do not end as images do ({counts}; first: {_first(others)})")
    if hidden:
        parts.append(f"{len(hidden)} hidden ({_first(hidden)})")
    if broken:
        parts.append(f"{len(broken)} that are no files or links to nothing ({_first(broken)})")
    return "; ".join(parts)


def _first(names: Sequence[str]) -> str:
    shown = sorted(names)[:_SHOWN]
    return ", ".join(shown) + (", ..." if len(names) > _SHOWN else "")
