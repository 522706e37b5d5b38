"""Several runs beside each other: results, curves, cost, and the settings in which they differ."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ndpp_dense.atomic_file import replacing
from ndpp_dense.reports.drawing import drawing, literal
from ndpp_dense.reports.page import Page, Picture, Section, Table, write_page
from ndpp_dense.reports.plots import Panel, Series, marker, panel_png, save_row, say
from ndpp_dense.reports.run_report import REPORT_FILE, duration, size

__all__ = ["Run", "comparison_rows", "differing_settings", "read_runs", "write_comparison"]

_HEAD = ("run", "command", "state", "steps", "metric", "last", "best", "at step", "time a step", "wall time", "memory")
_FOLDERS = {"OUTPUT_DIR", "work_dir"}  # differ by nature
_ABSENT = "not set"
_TITLES = {"loss": "Loss", "score": "Metric on the validation set", "rate": "Learning rate"}


@dataclass(frozen=True)
class Run:
    """What the folder of a run says.

    Attributes:
        label: The folder's name, with as much of its path as tells it from the others.
        facts: Its ``report.json``.
    """

    label: str
    facts: Mapping[str, Any]

    def curve(self, role: str) -> Series:
        """The curve that counts, of ``loss``, ``score`` or ``rate``; empty where it was not recorded."""
        curves = self.facts["curves"].get(role, {})
        name = self.facts["metric"] if role == "score" else next(iter(curves), "")
        points = [(step, value) for step, value in curves.get(name, []) if step is not None and value is not None]
        steps, values = np.asarray(points, float).reshape(-1, 2).T
        return steps, values


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Reads the reports of some runs.

    Args:
        folders: Of runs of ``train-det``, ``train-seg`` or ``pretrain`` that have ended or were stopped.

    Raises:
        ValueError: A folder is given twice, or holds no report, or a damaged one.
    """
    paths = [Path(folder) for folder in folders]
    twice = [path for path, count in Counter(path.resolve() for path in paths).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]} is given twice: name each run once.")
    return [Run(label, _facts(path)) for label, path in zip(_labels(paths), paths, strict=True)]


def comparison_rows(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """A head, and a row a run."""
    return [_HEAD, *(_row(run) for run in runs)]


def differing_settings(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Name of each setting that is not the same in all runs, and its value in each; none where commands differ."""
    if len({run.facts["command"] for run in runs}) > 1:  # each has names of its own
        return []
    settings = [run.facts["settings"] for run in runs]
    names = sorted({name for found in settings for name in found} - _FOLDERS)
    rows = [(name, *(str(found.get(name, _ABSENT)) for found in settings)) for name in names]
    return [row for row in rows if len({*row[1:]}) > 1]


def write_comparison(runs: Sequence[Run], folder: Path) -> None:
    """Writes ``compare.json``, ``compare.png`` and ``compare.html``; the folder is created if absent."""
    head, *rows = comparison_rows(runs)
    differing = differing_settings(runs)
    facts = {
        "runs": [dict(zip(head, row, strict=True)) for row in rows],
        "settings": {name: dict(zip([run.label for run in runs], values, strict=True)) for name, *values in differing},
    }
    with replacing(folder / "compare.json") as path:
        path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    panels = [_panel(role, runs) for role in _TITLES]
    with drawing(folder / "compare.png"):
        save_row(panels, folder / "compare.png")
    with drawing(folder / "compare.html"):
        write_page(_page(head, rows, differing, panels, runs, folder), folder / "compare.html")


def _page(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    differing: Sequence[Sequence[str]],
    panels: Sequence[Panel],
    runs: Sequence[Run],
    folder: Path,
) -> Page:
    pictures = []
    for panel in panels:
        with drawing(folder / f"compare.html, {panel.title}"):
            pictures.append(Picture(panel.title, panel.in_words(), panel_png(panel)))
    settings = Table("Settings that differ", ("setting", *(run.label for run in runs)), differing)
    same = "All settings are the same."
    if len({run.facts["command"] for run in runs}) > 1:
        same = "Runs of different commands have settings of different names: they are not compared."
    return Page(
        title=f"{len(runs)} runs compared",
        lead="Each run as its report.json has it.",
        sections=[
            Section("Results and cost", tables=[Table("Runs", head, rows)]),
            Section("Curves", pictures=pictures),
            Section("Settings", [] if differing else [same], tables=[settings] if differing else []),
        ],
    )


def _panel(role: str, runs: Sequence[Run]) -> Panel:
    named = {run.facts["metric"] for run in runs}
    title = next(iter(named)) if role == "score" and len(named) == 1 else _TITLES[role]
    several = role == "score" and len(named) > 1
    series = {f"{run.label}, {run.facts['metric']}" if several else run.label: run.curve(role) for run in runs}
    return Panel(role, title, series, _draw)


def _draw(axes: Any, series: Mapping[str, Series]) -> None:
    drawn = {label: points for label, points in series.items() if len(points[0])}
    if not drawn:
        say(axes, "not recorded")
        return
    for index, label in enumerate(series):
        if label in drawn:
            steps, values = drawn[label]
            style = ("-", "--", ":")[index // 10 % 3]
            shown = literal(label, 32)
            axes.plot(steps, values, style, color=f"C{index % 10}", linewidth=1.6, marker=marker(values), label=shown)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)


def _row(run: Run) -> tuple[str, ...]:
    facts, cost = run.facts, run.facts["cost"]
    steps, values = run.curve("score")
    best = int(values.argmax()) if len(values) else None
    last = facts["results"].get(facts["metric"])
    last = float(values[-1]) if last is None and len(values) else last
    took = cost.get("seconds_a_step")
    return (
        run.label,
        facts["command"],
        facts["state"],
        f"{facts['step']:,} of {facts['total']:,}",
        facts["metric"],
        "–" if last is None or not math.isfinite(last) else f"{last:.1f}",
        "–" if best is None else f"{values[best]:.1f}",
        "–" if best is None else f"{steps[best]:,.0f}",
        duration(took) if took else "–",
        duration(cost["seconds"]),
        size(cost.get("GPU memory", cost["memory"])) + (" GPU" if "GPU memory" in cost else ""),
    )


def _labels(paths: Sequence[Path]) -> list[str]:
    """Names of folders, with as many of those above as tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        labels = ["/".join(own[-depth:]) for own in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [str(path) for path in paths]


def _facts(folder: Path) -> Mapping[str, Any]:
    file = folder / REPORT_FILE
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder. Name the output folders of runs.")
    if not file.is_file():
        raise ValueError(
            f"{folder} has no {REPORT_FILE}: ndpp train-det, train-seg and pretrain write it when a run ends or is "
            "stopped. Let the run end, or continue it with --resume."
        )
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        run = Run("", found)
        _row(run)
        for role in _TITLES:
            run.curve(role)
        dict(found["settings"].items())
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())[:100]
        raise ValueError(f"{file} is damaged, or no report of a run ({type(error).__name__}: {reason}).") from error
    return found
