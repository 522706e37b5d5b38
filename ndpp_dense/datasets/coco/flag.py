"""A data set on the command line: NAME=JSON:IMAGES."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CocoSource", "OtherSource", "parse_dataset_flag"]

_FLAG_HELP = (
    "Expected NAME=JSON:IMAGES, e.g. --dataset cells_train=/data/cells/train.json:/data/cells/images, "
    "NAME=DATA.YAML of YOLO, or NAME=FOLDER of Pascal VOC"
)
_DRIVE = re.compile(r"(?:^|:)[A-Za-z](:)[\\/]")


@dataclass(frozen=True)
class CocoSource:
    """One split in COCO format.

    Attributes:
        name: name to register it under; ends in `_train` or `_val`.
        json: annotation file.
        images: folder that the `file_name` entries are relative to.
        remarks: what is to be shown of the files that the json was made from.
    """

    name: str
    json: Path
    images: Path
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class OtherSource:
    """One split in the layout of YOLO or of Pascal VOC.

    Attributes:
        name: name to register it under; ends in `_train` or `_val`, which says which split of the set it is.
        path: YOLO's `data.yaml`, or VOC's folder.
    """

    name: str
    path: Path


def parse_dataset_flag(flag: str) -> CocoSource | OtherSource:
    """Reads a `NAME=JSON:IMAGES`, `NAME=DATA.YAML` or `NAME=FOLDER` command-line value.

    The paths of COCO's form need not exist yet.

    A path may hold colons (a drive letter, a time stamp) as long as one colon alone can separate the two: the one
    after `.json`, or the one that leaves an existing file on its left.

    Args:
        flag: e.g. `cells_train=/data/train.json:/data/images`.

    Returns:
        The source, with `~` expanded.

    Raises:
        ValueError: a part is missing or empty, the name's ending is unknown, or the colons are ambiguous.
    """
    name, equals, paths = flag.partition("=")
    if not equals or not name.strip():
        raise ValueError(f"--dataset {flag!r}: no data set name before '='. {_FLAG_HELP}")
    name = name.strip()
    if not name.endswith(("_train", "_val")) or name in ("_train", "_val"):
        raise ValueError(
            f"--dataset {flag!r}: the name {name!r} must end in '_train' or '_val', which says what the set is for. "
            f"Rename it to {name + '_train'!r} or {name + '_val'!r}."
        )
    whole = Path(paths.strip()).expanduser()
    if paths.strip() and (whole.is_dir() or (whole.suffix.lower() in (".yaml", ".yml") and whole.is_file())):
        return OtherSource(name, whole)
    json_path, images = _split_paths(flag, paths)
    return CocoSource(name, Path(json_path).expanduser(), Path(images).expanduser())


def _split_paths(flag: str, paths: str) -> tuple[str, str]:
    drives = {match.start(1) for match in _DRIVE.finditer(paths)}
    colons = [i for i, letter in enumerate(paths) if letter == ":" and i not in drives]
    splits = [(paths[:i], paths[i + 1 :]) for i in colons if paths[:i].strip() and paths[i + 1 :].strip()]
    plain = paths.strip() and not colons and not _ends_in_json(paths.strip())
    if plain and not Path(paths.strip()).expanduser().exists():
        raise ValueError(f"--dataset {flag!r}: there is no file or folder {paths.strip()!r}. {_FLAG_HELP}")
    if not splits:
        raise ValueError(
            f"--dataset {flag!r}: needs an annotation file and an image folder, got {paths!r}. {_FLAG_HELP}"
        )
    for fits in (_is_existing_file, _ends_in_json, lambda _: True):
        fitting = [pair for pair in splits if fits(pair[0])]
        if len(fitting) == 1:
            return fitting[0]
    raise ValueError(
        f"--dataset {flag!r}: {len(splits)} colons could separate the annotation file from the image folder. "
        "Use paths without ':' (a symbolic link will do)."
    )


def _is_existing_file(path: str) -> bool:
    return Path(path).expanduser().is_file()


def _ends_in_json(path: str) -> bool:
    return path.lower().endswith(".json")
