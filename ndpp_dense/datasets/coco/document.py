"""The outer form of a COCO file: its sections, keys, types and ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ndpp_dense.datasets.coco.report import Report, first
from ndpp_dense.redaction import printable

__all__ = ["check_document", "is_number", "read_document"]

SECTIONS = ("images", "annotations", "categories")
_EXACT = 2**53  # beyond it numbers of floating point are not told apart
_REQUIRED = {
    "images": ("id", "file_name", "height", "width"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
}


def is_number(value: Any) -> bool:
    """Whether JSON held a number, and not true or false."""
    return type(value) in (int, float)


def _is_whole(value: Any) -> bool:
    return type(value) is int and -_EXACT <= value <= _EXACT


def _is_size(value: Any) -> bool:
    return _is_whole(value) and value > 0


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and printable(value) == value and "\n" not in value


_TEXT = "a text of characters that can be printed"
_WHOLE = "a whole number (1, not '1' or 1.0)"
_FORMS: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = {
    "images": {
        "id": (_is_whole, _WHOLE),
        "file_name": (_is_name, _TEXT),
        "height": (_is_size, "a whole number of pixels above 0"),
        "width": (_is_size, "a whole number of pixels above 0"),
    },
    "categories": {"id": (_is_whole, _WHOLE), "name": (_is_name, _TEXT)},
    "annotations": {
        "id": (_is_whole, _WHOLE),
        "image_id": (_is_whole, _WHOLE),
        "category_id": (_is_whole, _WHOLE),
        "iscrowd": (lambda value: type(value) in (int, bool) and value in (0, 1), "0 or 1"),
        "ignore": (lambda value: type(value) in (int, bool) and value == 0, "0: mark what to ignore by iscrowd 1"),
    },
}


def read_document(path: Path, name: str) -> Any:
    """Reads a JSON file.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is not JSON; names line and column.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist" if not path.exists() else "is no regular file"
        raise FileNotFoundError(
            f"{name}: the annotation file {path} {what}. Give the path of a COCO-format .json file."
        )
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))  # editors on Windows write a mark first
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{name}: {path} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}. "
            "Is the file complete? Write or download it again."
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: {path} is not UTF-8 text ({error}). Give a COCO-format .json file.") from error
    except (RecursionError, ValueError) as error:  # nested too deep, or a number of thousands of digits
        raise ValueError(f"{name}: {path} cannot be read as COCO-format JSON: {error}.") from error


def check_document(document: Any, report: Report, *, evaluated: bool) -> None:
    """Checks everything but boxes, masks and files.

    Args:
        document: What the file holds.
        report: Gets what is wrong.
        evaluated: Whether COCO evaluation reads it.

    Raises:
        ValueError: What is wrong leaves nothing to check further.
    """
    _check_sections(document, report.subject)
    for section in SECTIONS:
        _check_keys(document[section], section, _REQUIRED[section], report)
    report.raise_faults()
    if evaluated:
        _check_keys(
            document["annotations"], "annotations", ("area", "iscrowd"), report, ", which COCO evaluation reads"
        )
    for section in SECTIONS:
        _check_forms(document[section], section, report)
    report.raise_faults()
    _check_ids(document, report)
    report.raise_faults()
    _check_names(document["categories"], report)
    _check_crowds(document["annotations"], report)


def _check_sections(document: Any, subject: str) -> None:
    if not isinstance(document, dict):
        raise ValueError(
            f"{subject}: not COCO-shaped: the top level is a {type(document).__name__}, not an object with "
            f"{', '.join(SECTIONS)}. (A list of detections is a results file, not ground truth.)"
        )
    wrong = [key for key in SECTIONS if not isinstance(document.get(key), list)]
    if wrong:
        raise ValueError(
            f"{subject}: not COCO-shaped: no list under {', '.join(wrong)}; keys found: {sorted(document) or 'none'}. "
            "Convert the annotations to COCO's instance format."
        )
    for key in SECTIONS:
        if not document[key]:
            raise ValueError(
                f"{subject}: {key!r} is empty. Give a file with at least one entry under each of {SECTIONS}."
            )


def _check_keys(entries: list[Any], section: str, keys: tuple[str, ...], report: Report, why: str = "") -> None:
    for key in keys:
        lacking = [i for i, entry in enumerate(entries) if not isinstance(entry, dict) or key not in entry]
        text = f"{{count}} of {len(entries)} entries under {section!r} have no {key!r}{why}; add it to each"
        report.fault(lacking, text, what="by position")


def _check_forms(entries: list[dict[str, Any]], section: str, report: Report) -> None:
    for key, (fits, wanted) in _FORMS[section].items():
        wrong = [entry for entry in entries if key in entry and not fits(entry[key])]
        if wrong:
            found = first((repr(entry[key])[:40] for entry in wrong), 3)
            text = f"{{count}} of {len(entries)} entries under {section!r} have a {key!r} that is not {wanted}: {found}"
            report.fault([repr(entry["id"])[:40] for entry in wrong], text, what="ids")


def _check_ids(document: dict[str, Any], report: Report) -> None:
    known: dict[str, set[int]] = {}
    for section in SECTIONS:
        seen: set[int] = set()
        twice = [entry["id"] for entry in document[section] if entry["id"] in seen or seen.add(entry["id"])]
        report.fault(
            twice, f"{{count}} ids under {section!r} occur twice; give each entry its own id", what=f"{section} ids"
        )
        known[section] = seen
    for key, section in (("image_id", "images"), ("category_id", "categories")):
        stray = [entry for entry in document["annotations"] if entry[key] not in known[section]]
        text = f"{{count}} annotations have an {key} that is not under {section!r}"
        text += f" ({first(entry[key] for entry in stray)}); remove them or add what they refer to"
        report.fault([entry["id"] for entry in stray], text)


def _check_names(categories: list[dict[str, Any]], report: Report) -> None:
    names = [category["name"] for category in categories]
    twice = [category["id"] for category in categories if names.count(category["name"]) > 1]
    report.fault(twice, "{count} categories share a name with another one; rename or join them", what="category ids")


def _check_crowds(annotations: list[dict[str, Any]], report: Report) -> None:
    if all(entry.get("iscrowd") for entry in annotations):
        text = f"all {len(annotations)} annotations are crowds (iscrowd 1), which are neither trained on nor looked for"
        report.fault([entry["id"] for entry in annotations], f"{text}; set iscrowd 0 for single objects")
