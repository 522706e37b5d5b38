"""The final evaluation results as a plain table for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["format_results"]

_TASKS = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints", "box_proposals": "proposals"}
_PER_CATEGORY = "AP-"
_FOOTNOTE = '"-": the data set holds no such objects.'


def format_results(results: Mapping[str, Any]) -> str:
    """Lays evaluation results out as text.

    Args:
        results: what `DefaultTrainer.test` returns: `{"bbox": {"AP": ..., "AP50": ..., ...}, "segm": {...}}`, in
            percent, or one such mapping per data set name.

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
