"""Data sets in YOLO's and Pascal VOC's layouts, written as COCO json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from ndpp_dense.atomic_file import replacing
from ndpp_dense.datasets.coco.drafts import Draft
from ndpp_dense.datasets.coco.flag import CocoSource, OtherSource
from ndpp_dense.datasets.coco.voc import list_of, read_voc
from ndpp_dense.datasets.coco.yolo import read_yolo
from ndpp_dense.datasets.generated import default_root

__all__ = ["as_coco"]


def as_coco(sources: Sequence[CocoSource | OtherSource], folder: Path | None = None) -> list[CocoSource]:
    """Writes what is not COCO json as COCO json, anew at every call.

    Coordinates are those of the label files. Each annotation has a `source`, the file (and line) that it stands in.

    Args:
        sources: As :func:`ndpp_dense.datasets.coco.parse_dataset_flag` returns them.
        folder: Where to write; None takes ``$NDPP_HOME/datasets/converted``.

    Returns:
        All sources in COCO format, in the same order, with remarks to be shown. Sets in VOC's layout share one list of
        categories, by name.

    Raises:
        FileNotFoundError: Folders or files of the layout are missing.
        ValueError: A file is faulty, or the layout is neither.
    """
    folder = folder or default_root() / "converted"
    _refuse_one_split_for_two(sources)
    drafts = {source.name: _read(source) for source in sources if isinstance(source, OtherSource)}
    _share_categories([drafts[s.name] for s in sources if isinstance(s, OtherSource) and s.path.is_dir()])
    return [
        source if isinstance(source, CocoSource) else _write(source, drafts[source.name], folder) for source in sources
    ]


def _write(source: OtherSource, draft: Draft, folder: Path) -> CocoSource:
    digest = hashlib.sha256(str(source.path.resolve()).encode()).hexdigest()[:10]
    file = folder / f"{source.name}-{digest}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as made:
        made.write_text(json.dumps(draft.document()), encoding="utf-8")
    return CocoSource(source.name, file, draft.root, tuple(draft.remarks))


def _split(source: OtherSource) -> str:
    return source.name.rpartition("_")[2]


def _refuse_one_split_for_two(sources: Sequence[CocoSource | OtherSource]) -> None:
    """Without lists of the splits a VOC folder is one set, which cannot be trained on and evaluate the result."""
    seen: dict[Path, str] = {}
    for source in sources:
        if not isinstance(source, OtherSource) or not source.path.is_dir() or list_of(source.path, _split(source)):
            continue
        lists = source.path / "ImageSets" / "Main"
        other = seen.setdefault(source.path.resolve(), source.name)
        if other != source.name or lists.is_dir():
            raise ValueError(
                f"--dataset {source.name}={source.path}: {lists} has no {_split(source)}.txt, which says which images "
                "are of this split. Write it (one name a line, without suffix), or give another folder."
            )


def _read(source: OtherSource) -> Draft:
    read = read_voc if source.path.is_dir() else read_yolo
    subject = f"--dataset {source.name}={source.path}"
    try:
        draft = read(source.path, _split(source), subject)
    except (ValueError, OSError) as error:
        reason = str(error)
        if reason.startswith(subject):
            raise
        raise ValueError(f"{subject}: {reason}") from error
    if not draft.annotations:
        count = len(draft.images)
        raise ValueError(f"{subject}: no label file of its {count} images holds an object. Look into one of them.")
    return draft


def _share_categories(drafts: Sequence[Draft]) -> None:
    """VOC's files have no list of categories: that of all sets together is theirs."""
    names = sorted({name for draft in drafts for name in draft.categories})
    for draft in drafts:
        draft.number_categories(names)
