"""Tables and a figure from the records of a study."""

import json
import statistics
from collections import defaultdict
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from records import table

from studies.engine import Column, Study

Record = dict[str, Any]
Groups = dict[tuple[str, str, str, float], list[Record]]  # condition, method, overrides, learning rate
NOTE = "Mean over the seeds, the seeds' own values in brackets."
STEP = (
    ' "Step" is the median time of a training step over that of {first}, measured in one process, interleaved '
    "({count} steps each; commit {commit})."
)


def write(study: Study) -> None:
    """Write ``<folder>.md`` and ``<folder>.png``."""
    records = [json.loads(path.read_text()) for path in sorted(study.folder.glob("*_seed*.json"))]
    if not records:
        raise SystemExit(f"no records in {study.folder}: run `python tools/study.py {study.name} run` first")
    groups = grouped(records)
    best = {condition: best_groups(study, condition, groups) for condition in study.conditions}
    best = {condition: found for condition, found in best.items() if found}
    parts = [
        study.text.format(
            hardware=", ".join(sorted({r["hardware"] for r in records})),
            commits=", ".join(sorted({r["commit"] for r in records})),
        ),
        "## Each method at its own best learning rate",
        *(part for condition, found in best.items() for part in best_table(study, condition, found)),
        said(study),
        f"![{study.columns[-1].metric} and loss]({study.name}.png)\n",
        *(part for condition, found in best.items() for part in detail_table(study, condition, found)),
        "## All runs",
        run_table(study, groups),
    ]
    study.folder.with_suffix(".md").write_text("\n\n".join(part.strip("\n") for part in parts) + "\n")
    draw(study, best)


def grouped(records: list[Record]) -> Groups:
    """Return the records that differ in the seed alone together."""
    groups: Groups = defaultdict(list)
    for record in records:
        groups[record.get("condition", ""), record["method"], " ".join(record["overrides"]), record["lr"]].append(
            record
        )
    return groups


def value(record: Record, column: Column) -> float:
    """Return a metric at a share of the budget: of the evaluation nearest to it; 0 for a run that diverged before."""
    found = record["evaluations"]
    if not found or (record["diverged"] and column.share == 1):
        return 0.0
    iteration = record["loss"][-1][0] * column.share
    return found[min(found, key=lambda key: abs(int(key) - iteration))][column.metric]


def best_groups(study: Study, condition: str, groups: Groups) -> dict[str, list[Record]]:
    """Return, by method, the runs of the learning rate with the best mean in the end, among those with most seeds.

    Runs with other settings do not count.
    """
    judge = study.columns[-1]
    result = {}
    for method in study.methods:
        own = [
            group
            for (where, name, changed, _), group in groups.items()
            if (where, name, changed) == (condition, method, "")
        ]
        most = max((len(group) for group in own), default=0)
        if most:
            result[method] = max(
                (group for group in own if len(group) == most),
                key=lambda group: statistics.mean(value(record, judge) for record in group),
            )
    return result


def spread(values: list[float]) -> str:
    """Return ``mean (each)``, or the only value."""
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({', '.join(f'{value:.1f}' for value in values)})"


def step_medians(study: Study) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the median step time of each method and the record; both empty where there is none."""
    path = study.folder / "step_time.json"
    timed = json.loads(path.read_text()) if path.exists() else {}
    return {method: statistics.median(seconds) for method, seconds in timed.get("seconds", {}).items()}, timed


def best_table(study: Study, condition: str, best: dict[str, list[Record]]) -> list[str]:
    """Return the table of methods, under the condition's heading if it has one."""
    medians, _ = step_medians(study)
    first = medians.get(next(iter(study.methods)))
    rows = []
    for method, group in best.items():
        figures = [spread([value(record, column) for record in group]) for column in study.columns]
        ratio = [f"{medians[method] / first:.2f}" if first and method in medians else "-"] if medians else []
        rows.append([study.methods[method], f"{group[0]['lr']:g}", *figures, *ratio])
    head = ["method", "lr", *(column.label for column in study.columns), *(["step"] if medians else [])]
    return [*([f"### {condition}"] if condition else []), table(head, rows)]


def said(study: Study) -> str:
    """Return what the tables' figures are."""
    medians, timed = step_medians(study)
    if not medians:
        return NOTE
    first = next(iter(study.methods))
    count = len(timed["seconds"][first])
    return NOTE + STEP.format(first=study.methods[first], count=count, commit=timed["commit"])


def detail_table(study: Study, condition: str, best: dict[str, list[Record]]) -> list[str]:
    """Return the table of further metrics in the end, one row each, if there are any."""
    if not study.details:
        return []
    rows = [
        [metric, *(spread([value(record, Column("", metric)) for record in group]) for group in best.values())]
        for metric in study.details
    ]
    heading = f"## In detail{f': {condition}' if condition else ''}"
    return [heading, table(["", *(study.methods[method] for method in best)], rows)]


def run_table(study: Study, groups: Groups) -> str:
    """Return the table of all runs, those that differ in the seed alone in one row."""
    rows = []
    for (condition, method, changed, rate), group in sorted(groups.items()):
        figures = [spread([value(record, column) for record in group]) for column in study.columns]
        remarks = {record["note"] for record in group if "note" in record}
        remarks |= {f"seed {record['seed']} diverged" for record in group if record["diverged"]}
        seeds = ", ".join(str(record["seed"]) for record in group)
        rows.append(
            [condition, study.methods[method], changed, f"{rate:g}", seeds, *figures, "; ".join(sorted(remarks))]
        )
    head = ["condition", "method", "changed", "lr", "seeds", *(column.label for column in study.columns), ""]
    empty = 0 if len(study.conditions) == 1 else None  # leave the column of conditions out where there is but one
    return table(
        [c for i, c in enumerate(head) if i != empty], [[c for i, c in enumerate(r) if i != empty] for r in rows]
    )


def draw(study: Study, best: dict[str, dict[str, list[Record]]]) -> None:
    """Draw the last column's metric (left) and the training loss (right) of each method's best learning rate."""
    figure = Figure(figsize=(10, 4 * len(best)), layout="constrained")
    colours = {method: f"C{number}" for number, method in enumerate(study.methods)}
    panels = figure.subplots(len(best), 2, squeeze=False)
    for (condition, found), row in zip(best.items(), panels, strict=True):
        for method, group in found.items():
            draw_runs(study, group, {"color": colours[method]}, study.methods[method].replace("`", ""), row)
        for axes, title in zip(row, ("validation", "training"), strict=True):
            axes.set_title(f"{title}, {condition}" if condition else title)
            axes.set(xlabel=study.unit, ylabel=study.columns[-1].metric if title == "validation" else "loss")
            axes.grid(alpha=0.3)
        row[0].legend()
    FigureCanvasAgg(figure).print_png(str(study.folder.with_suffix(".png")))


def draw_runs(study: Study, group: list[Record], style: dict[str, Any], label: str, row: tuple[Axes, Axes]) -> None:
    """Draw the runs of a method into the two plots of a row."""
    metric = study.columns[-1].metric
    for seed, record in enumerate(group):
        points = sorted({0: 0, **{int(key): found[metric] for key, found in record["evaluations"].items()}}.items())
        named = {**style, **({"label": f"{label}, lr {record['lr']:g}"} if seed == 0 else {})}
        row[0].plot(*zip(*points, strict=True), marker="o", markersize=3, **named)
        row[1].plot(*zip(*record["loss"], strict=True), alpha=0.8, **style)
