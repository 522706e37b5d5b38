"""Rating sets as they are distributed: KADID-10k, TID2013, TID2008 and RAID."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from ndpp_dense.images.folders import find_images
from ndpp_dense.robustness.perceptual.rating_sets import FileRatingSet, Pair, by_reference

__all__ = ["LAYOUTS", "open_ratings"]

_RAID_KINDS = {"rot": "rotation", "trans": "translation", "scale": "scale", "gn": "noise"}


def open_ratings(layout: str, root: str | Path) -> FileRatingSet:
    """Opens a set in the folder layout that it is distributed in.

    Images are found by name anywhere below the folder, whatever the case of the letters (TID's differ).

    ========== ======================== ==============================================================================
    layout     ratings                 images
    ========== ======================== ==============================================================================
    kadid10k   ``dmos.csv``             ``images/I01.png``, ``images/I01_01_01.png``; "dmos" is a quality: 5 is best
    tid2013    ``mos_with_names.txt``   ``reference_images/I01.BMP``, ``distorted_images/i01_01_1.bmp``; 9 is best
    tid2008    ``mos_with_names.txt``   likewise
    raid       ``responses.csv``        ``img_01.png``, ``rot_img_01_level_02.png``; "Response" is a difference
    ========== ======================== ==============================================================================

    RAID's level 1 is the reference itself and is left out.

    Args:
        layout: One of ``LAYOUTS``.
        root: Folder with the rating file.

    Raises:
        ValueError: Unknown layout, unreadable ratings, or names in them that no image has.
        FileNotFoundError: No folder, or no rating file in it.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"Unknown rating set {layout!r}: choose from {', '.join(LAYOUTS)}.")
    file_name, read = LAYOUTS[layout]
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{layout}: there is no folder {root}.")
    file = root / file_name
    if not file.is_file():
        held = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
        others = ", ".join(f"{name}: {needed}" for name, (needed, _) in LAYOUTS.items() if name != layout)
        raise FileNotFoundError(
            f"{layout}: no rating file {file_name} in {root}, which holds {held}. Give the folder that has it, or "
            f"another layout ({others})."
        )
    pairs = by_reference(read(file))
    if not pairs:
        raise ValueError(f"{layout}: {file} holds no ratings. Copy the set again.")
    return FileRatingSet(layout, pairs, _files(layout, root, file, pairs))


def _files(layout: str, root: Path, file: Path, pairs: tuple[Pair, ...]) -> dict[str, Path]:
    """The path of every image that is named."""
    found: dict[str, list[Path]] = {}
    for path in find_images(root).files:
        found.setdefault(path.name.lower(), []).append(path)
    names = list(dict.fromkeys(name for pair in pairs for name in (pair.reference, pair.distorted)))
    missing = [name for name in names if name.lower() not in found]
    if missing:
        raise ValueError(
            f"{layout}: {len(missing)} of {len(names)} images that {file.name} names are not below {root}: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''} (there are {len(found)} images). Unpack "
            "all images of the set, with their own names."
        )
    twice = next((found[name.lower()] for name in names if len(found[name.lower()]) > 1), None)
    if twice:
        raise ValueError(f"{layout}: two images of one name, {twice[0]} and {twice[1]}. Leave one below {root}.")
    return {name: found[name.lower()][0] for name in names}


def _kadid(file: Path) -> Iterator[Pair]:
    for line, row in _rows(file, ("ref_img", "dist_img", "dmos")):
        kind, level = _parts(r"i\d+_(\d+)_(\d+)\.\w+", row["dist_img"], file, line)
        quality = _number(row["dmos"], (1, 5), file, line)
        yield Pair(row["ref_img"], row["dist_img"], f"type {kind}", int(level), -quality)


def _tid(file: Path) -> Iterator[Pair]:
    for line, text in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        words = text.split()
        if not words:
            continue
        if len(words) != 2:
            raise ValueError(f"{file}, line {line}: {text!r} is not a score and a name. Copy the file again.")
        kind, level = _parts(r"i\d+_(\d+)_(\d+)\.bmp", words[1], file, line)
        reference = words[1][:3].upper() + ".BMP"
        yield Pair(reference, words[1], f"type {kind}", int(level), -_number(words[0], (0, 9), file, line))


def _raid(file: Path) -> Iterator[Pair]:
    for line, row in _rows(file, ("Reference", "Distorted", "Response")):
        kind, level = _parts(r"([a-z]+)_img_\d+_level_(\d+)\.\w+", row["Distorted"], file, line)
        if int(level) > 1:
            response = _number(row["Response"], (-math.inf, math.inf), file, line)
            yield Pair(row["Reference"], row["Distorted"], _RAID_KINDS.get(kind, kind), int(level) - 1, response)


# The rating file and its reader, by layout.
LAYOUTS: dict[str, tuple[str, Callable[[Path], Iterator[Pair]]]] = {
    "kadid10k": ("dmos.csv", _kadid),
    "tid2013": ("mos_with_names.txt", _tid),
    "tid2008": ("mos_with_names.txt", _tid),
    "raid": ("responses.csv", _raid),
}


def _rows(file: Path, needed: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    with file.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        columns = reader.fieldnames or []
        if not set(needed) <= set(columns):
            raise ValueError(f"{file} has the columns {', '.join(columns) or 'none'}; needed are {', '.join(needed)}.")
        for row in reader:
            if any(row[column] is None for column in needed):
                raise ValueError(f"{file}, line {reader.line_num}: too few columns. Copy the file again.")
            yield reader.line_num, row


def _parts(pattern: str, name: str, file: Path, line: int) -> tuple[str, str]:
    match = re.fullmatch(pattern, name, re.IGNORECASE)
    if not match:
        raise ValueError(
            f"{file}, line {line}: {name!r} is not named as the distorted images of this set are ({pattern}). "
            "Give another layout, or the file as it is distributed."
        )
    return match[1], match[2]


def _number(text: str, ends: tuple[float, float], file: Path, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not ends[0] <= value <= ends[1] or math.isinf(value):
        raise ValueError(f"{file}, line {line}: score {text!r} is no number of {ends[0]:g} to {ends[1]:g}.")
    return value
