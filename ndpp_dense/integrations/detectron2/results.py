"""The final evaluation results: a JSON file for programs and a plain table for people."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from ndpp_dense.integrations.detectron2.atomic_file import replacing

_TASKS = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints", "box_proposals": "proposals"}
_PER_CATEGORY = "AP-"
_FOOTNOTE = '"-": the data set holds no such objects.'


def write_results(results: Mapping[str, Any], out_json: str | os.PathLike[str]) -> None:
    """Writes evaluation results as JSON, whole or not at all.

    Args:
        results: what `DefaultTrainer.test` returns: `{"bbox": {"AP": ..., "AP50": ..., ...}, "segm": {...}}`, in
            percent, or one such mapping per data set name.
        out_json: file to write; its folder is created if absent.
    """
    with replacing(out_json) as path:
        path.write_text(json.dumps(_plain(results), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def format_results(results: Mapping[str, Any]) -> str:
    """Lays evaluation results out as text.

    Args:
        results: see `write_results`.

    Returns:
        For each data set a table of AP (0 to 100) with a row per task, then one with a row per category where
        there is more than one; "-" marks what cannot be measured on the set.
    """
    if not results:
        return "No results: nothing was evaluated."
    if _is_nested(results):
        parts = [
            f"{name}\n{_format_one(tasks) if tasks else 'nothing was evaluated'}" for name, tasks in results.items()
        ]
        text = "\n\n".join(parts)
    else:
        text = _format_one(results)
    return f"{text}\n{_FOOTNOTE}" if _has_gap(results) else text


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    number = float(value)
    return number if math.isfinite(number) else None


def _has_gap(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_gap(inner) for inner in value.values())
    return not math.isfinite(value)


def _is_nested(results: Mapping[str, Any]) -> bool:
    return any(isinstance(inner, Mapping) for tasks in results.values() for inner in tasks.values()) or not any(
        tasks for tasks in results.values()
    )


def _format_one(tasks: Mapping[str, Mapping[str, float]]) -> str:
    from tabulate import tabulate

    tasks = {_TASKS.get(task, task): metrics for task, metrics in tasks.items()}
    metrics = list(dict.fromkeys(m for row in tasks.values() for m in row if not m.startswith(_PER_CATEGORY)))
    overall = [[task, *(_number(row.get(metric)) for metric in metrics)] for task, row in tasks.items()]
    text = _table(tabulate, overall, ["", *metrics])
    categories = list(dict.fromkeys(m for row in tasks.values() for m in row if m.startswith(_PER_CATEGORY)))
    if len(categories) < 2:
        return text
    by_category = [
        [name.removeprefix(_PER_CATEGORY), *(_number(row.get(name)) for row in tasks.values())] for name in categories
    ]
    return f"{text}\n\n{_table(tabulate, by_category, ['AP by category', *tasks])}"


def _table(tabulate: Any, rows: list[list[str]], headers: list[str]) -> str:
    # Numbers are text already: tabulate would drop the trailing zeros of "30.0", and turn category "0" into a number.
    alignment = ("left", *["right"] * (len(headers) - 1))
    return tabulate(rows, headers, tablefmt="simple", disable_numparse=True, colalign=alignment)


def _number(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.1f}"
