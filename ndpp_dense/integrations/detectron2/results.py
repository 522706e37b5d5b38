"""The final evaluation results as a plain table for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ndpp_dense.reports.page import Table

__all__ = ["format_results", "main_figures", "result_tables"]

_TASKS = {"bbox": "boxes", "segm": "masks", "keypoints": "keypoints", "box_proposals": "proposals"}
_KINDS = {"bbox": "box", "segm": "mask", "keypoints": "keypoint", "box_proposals": "proposal"}
_OVERALL = {"AP": "AP (mean over IoU 0.50 to 0.95)", "AP50": "AP at IoU 0.50", "AP75": "AP at IoU 0.75"}
_SIZES = {"APs": "small (below 32² pixels)", "APm": "medium", "APl": "large (above 96² pixels)"}
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


def main_figures(results: Mapping[str, Any]) -> dict[str, float]:
    """AP and AP50 of each task of each set, by names such as ``mask AP``; the main figure comes first."""
    found = {}
    for prefix, tasks in _by_set(results).items():
        for task in sorted(tasks, key=lambda name: name != "segm"):
            for metric in ("AP", "AP50"):
                if metric in tasks[task]:
                    found[f"{prefix}{_KINDS.get(task, task)} {metric}"] = tasks[task][metric]
    return found


def result_tables(results: Mapping[str, Any]) -> list[Table]:
    """Evaluation results as tables: overall, by size of the object, and by category."""
    tables = []
    for prefix, tasks in _by_set(results).items():
        kinds = [_KINDS.get(task, task) for task in tasks]
        for caption, metrics in (("Average precision", _OVERALL), ("Average precision by size of object", _SIZES)):
            rows = [[name, *(row.get(key) for row in tasks.values())] for key, name in metrics.items()]
            tables.append(Table(f"{prefix}{caption}", ["", *kinds], rows, percent=True))
        names = dict.fromkeys(key for row in tasks.values() for key in row if key.startswith(_PER_CATEGORY))
        rows = [[key.removeprefix(_PER_CATEGORY), *(row.get(key) for row in tasks.values())] for key in names]
        if rows:
            tables.append(Table(f"{prefix}Average precision by class", ["class", *kinds], rows, percent=True))
    return tables


def _by_set(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Results by task, by what to write before them: nothing where there is one set."""
    if not results:
        return {}
    return {f"{name}/ ": tasks for name, tasks in results.items()} if _is_nested(results) else {"": results}


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
