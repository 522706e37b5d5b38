"""The report of a run: ``report.html`` for people and ``report.json`` for programs, from the same facts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ndpp_dense.atomic_file import replacing
from ndpp_dense.redaction import redacted
from ndpp_dense.reports.drawing import drawing
from ndpp_dense.reports.inspection import spectra_section
from ndpp_dense.reports.page import Page, Picture, Section, Table, write_page
from ndpp_dense.reports.plots import Panel, panel_png
from ndpp_dense.reports.spectra import LayerSpectrum
from ndpp_dense.reports.surroundings import peak_memory, versions

__all__ = [
    "REPORT_FILE",
    "Cost",
    "Example",
    "RunReport",
    "conversion_facts",
    "duration",
    "plain_layers",
    "size",
    "write_run_report",
]

REPORT_FILE = "report.json"
_MOST_POINTS = 2000  # of a curve in the JSON file


@dataclass(frozen=True)
class Example:
    """A prediction, drawn when the report is written.

    Attributes:
        group: ``worst`` or ``best``.
        caption: File and figure.
        draw: Makes a JPEG file.
    """

    group: str
    caption: str
    draw: Callable[[], bytes]


@dataclass(frozen=True)
class Cost:
    """What this start of the run took.

    Attributes:
        seconds: Since it began.
        steps: Optimizer steps it made.
        seconds_a_step: Median, without evaluations; None where it was not measured.
        processes: How many.
    """

    seconds: float
    steps: int
    seconds_a_step: float | None = None
    processes: int = 1


@dataclass(frozen=True)
class RunReport:
    """What is known of a run.

    Attributes:
        command: ``train-det``, ``train-seg`` or ``pretrain``.
        folder: Of the run.
        step: Optimizer steps done, of ``total``.
        total: Steps of the whole run.
        state: ``finished``, ``stopped``, ``diverged``, ``evaluated``.
        remark: A sentence on that.
        metric: Name of the figure that counts, as in the panel of role ``score``.
        figures: Main results by name, 0 to 100.
        tables: All results, by class and size.
        panels: Curves; none for an evaluation.
        examples: Best and worst predictions.
        examples_note: What best and worst means.
        examples_small: Whether they are single pictures, not pairs.
        data: What was trained and evaluated on.
        settings: All, by dotted name, as text.
        chosen: Names of those that the run has set.
        conversion: What was converted, in one line, and the layers left plain with the reason.
        spectra: Of the ND++ layers.
        cost: Time.
        device: ``cpu`` or ``cuda``.
        warnings: What was logged.
    """

    command: str
    folder: Path
    step: int
    total: int
    state: str
    metric: str
    figures: Mapping[str, float]
    cost: Cost
    device: str
    remark: str = ""
    tables: Sequence[Table] = ()
    panels: Sequence[Panel] = ()
    examples: Sequence[Example] = ()
    examples_note: str = ""
    examples_small: bool = False
    data: Sequence[Table] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    chosen: Sequence[str] = ()
    conversion: tuple[str, Mapping[str, str]] = ("", {})
    spectra: Sequence[LayerSpectrum] = ()
    warnings: Sequence[str] = ()


def write_run_report(report: RunReport, name: str = "report.html") -> None:
    """Writes the page, and, of a training, ``report.json`` before it; what goes wrong costs these files alone.

    Args:
        report: The facts.
        name: Of the page, in the folder of the run.
    """
    memory = peak_memory()
    if report.panels:
        with drawing(report.folder / REPORT_FILE):
            _write_json(report, memory)
    with drawing(report.folder / name):
        write_page(_page(report, memory), report.folder / name)


def conversion_facts(model: Any) -> tuple[str, dict[str, str]]:
    """What was converted, in one line, and the layers left plain with the reason; empty without ND++."""
    found = getattr(model, "ndpp_report", None)
    if found is None:
        return "", {}
    return found.summary(), {record.name: record.reason for record in found.records if record.action == "left"}


def plain_layers(folder: Path) -> dict[str, str]:
    """The layers left plain of the run of a folder, with the reason; empty where its report does not say."""
    try:
        found = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))["left_plain"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {str(name): str(reason) for name, reason in found.items()} if isinstance(found, dict) else {}


def duration(seconds: float) -> str:
    """Seconds as people say them, such as ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 120:
        return f"{seconds:.3g} s"
    minutes = whole // 60
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"


def size(count: float) -> str:
    """Bytes as people say them, such as ``1.4 GiB``."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _write_json(report: RunReport, memory: Mapping[str, int]) -> None:
    facts = {
        "command": report.command,
        "state": report.state,
        "step": report.step,
        "total": report.total,
        "metric": report.metric,
        "results": {name: _finite(value) for name, value in report.figures.items()},
        "curves": {
            panel.role: {label: _points(*series) for label, series in panel.series.items()} for panel in report.panels
        },
        "cost": {
            "seconds": report.cost.seconds,
            "steps": report.cost.steps,
            "seconds_a_step": report.cost.seconds_a_step,
            "processes": report.cost.processes,
            **memory,
        },
        "settings": {redacted(name): redacted(value) for name, value in report.settings.items()},
        "left_plain": {redacted(name): redacted(reason) for name, reason in report.conversion[1].items()},
        "versions": versions(report.device),
        "warnings": [redacted(text) for text in report.warnings],
    }
    with replacing(report.folder / REPORT_FILE) as path:
        path.write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _points(steps: Any, values: Any) -> list[list[float | None]]:
    stride = max(1, math.ceil(len(steps) / _MOST_POINTS))
    kept = sorted({*range(0, len(steps), stride), *([len(steps) - 1] if len(steps) else [])})
    return [[_finite(steps[index]), _finite(values[index])] for index in kept]


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _page(report: RunReport, memory: Mapping[str, int]) -> Page:
    done = f"{report.step:,} of {report.total:,} steps. " if report.total else ""
    return Page(
        title=f"{report.folder.resolve().name}: {report.command}",
        state=report.state,
        good=report.state in ("finished", "evaluated"),
        lead=f"{done}{report.remark}".strip(),
        figures={name: f"{value:.1f}" if math.isfinite(value) else "–" for name, value in report.figures.items()},
        sections=[section for section in _sections(report, memory) if section is not None],
    )


def _sections(report: RunReport, memory: Mapping[str, int]) -> list[Section | None]:
    warned = "What was logged as a warning since this start of the run." if report.warnings else "None were logged."
    return [
        Section("Warnings", [warned], report.warnings),
        Section("Results", _about(report), tables=report.tables),
        Section("Curves", pictures=_curves(report)) if report.panels else None,
        *(_examples(report, group) for group in ("worst", "best")),
        Section("Data", tables=report.data) if report.data else None,
        _conversion(report),
        spectra_section(report.spectra) if report.spectra else None,
        Section("Time and memory", tables=[_cost(report, memory)]),
        _settings(report),
        Section("Versions", tables=[Table("Installed", ("name", "version"), [*versions(report.device).items()])]),
    ]


def _about(report: RunReport) -> list[str]:
    if not report.tables:
        return ["Nothing was evaluated yet."]
    early = report.state in ("stopped", "diverged")
    return ["Of the last evaluation that was complete: the run went on after it."] if early else []


def _curves(report: RunReport) -> list[Picture]:
    made = []
    for panel in report.panels:
        with drawing(report.folder / f"report.html, {panel.title}"):
            made.append(Picture(panel.title, panel.in_words(), panel_png(panel)))
    return made


def _examples(report: RunReport, group: str) -> Section | None:
    made = []
    for example in report.examples:
        if example.group == group:
            with drawing(report.folder / f"report.html, {example.caption}"):
                made.append(Picture(example.caption, f"{group} predictions: {example.caption}", example.draw()))
    title = f"{group.capitalize()} predictions"
    return Section(title, [report.examples_note], pictures=made, small=report.examples_small) if made else None


def _conversion(report: RunReport) -> Section | None:
    summary, left = report.conversion
    if not summary:
        return None
    table = Table("Layers that were left plain", ("layer", "reason"), [*left.items()], folded=len(left) > 8)
    return Section("ND++ layers", [f"{summary}."], tables=[table] if left else [])


def _cost(report: RunReport, memory: Mapping[str, int]) -> Table:
    cost = report.cost
    rows = [["wall time of this start", duration(cost.seconds)], ["processes", str(cost.processes)]]
    if cost.steps:
        rows.insert(1, ["steps of this start", f"{cost.steps:,}"])
    if cost.seconds_a_step:
        rows.insert(2, ["time of a step (median, without evaluations)", duration(cost.seconds_a_step)])
    rows += [[f"{name} at most (first process)", size(count)] for name, count in memory.items()]
    return Table("Cost", ("what", "value"), rows)


def _settings(report: RunReport) -> Section | None:
    if not report.settings:
        return None
    head = ("setting", "value")
    chosen = [(name, report.settings[name]) for name in report.chosen if name in report.settings]
    tables = [Table("Set for this run", head, chosen, folded=False)] if chosen else []
    return Section("Settings", tables=[*tables, Table("All settings", head, [*report.settings.items()], folded=True)])
