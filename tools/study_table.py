"""Tables and a figure from the records of a study."""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from study import Column, Study

Record = dict[str, Any]
NOTE = "Mean over the seeds, the seeds' own values in brackets."
STEP = (
    ' "Step" is the median time of a training step over that of {first}, measured in one process, interleaved '
    "({count} steps each; commit {commit})."
)


def write(study: Study) -> None:
    """Write ``<folder>.md`` and ``<folder>.png``."""
    records = [json.loads(path.read_text()) for path in sorted(study.folder.glob("*_seed*.json"))]
    if not records:
        raise SystemExit(f"no records in {study.folder}: run `python tools/study_{study.name}.py run` first")
    groups: dict[tuple, list[Record]] = defaultdict(list)
    for record in records:
        groups[record["method"], " ".join(record["overrides"]), record["lr"]].append(record)
    best = {method: group for method in study.methods if (group := best_group(study, method, groups))}
    parts = [
        study.text.format(
            hardware=", ".join(sorted({r["hardware"] for r in records})),
            commits=", ".join(sorted({r["commit"] for r in records})),
        ),
        "## Each method at its own best learning rate",
        *best_table(study, best),
        f"![{study.columns[-1].metric} and loss]({study.name}.png)\n",
        *detail_table(study, best),
        "## All runs",
        run_table(study, groups),
    ]
    study.folder.with_suffix(".md").write_text("\n\n".join(part.strip("\n") for part in parts) + "\n")
    draw(study, best, study.folder.with_suffix(".png"))


def value(record: Record, column: Column) -> float:
    """Return a metric at a share of the budget: of the evaluation nearest to it; 0 for a run that diverged before."""
    found = record["evaluations"]
    if not found or (record["diverged"] and column.share == 1):
        return 0.0
    iteration = record["loss"][-1][0] * column.share
    return found[min(found, key=lambda key: abs(int(key) - iteration))][column.metric]


def best_group(study: Study, method: str, groups: dict[tuple, list[Record]]) -> list[Record]:
    """Return the runs of the learning rate with the best mean in the end, among those with most seeds.

    Runs with other settings do not count.
    """
    own = [group for (name, changed, _), group in groups.items() if name == method and not changed]
    most = max((len(group) for group in own), default=0)
    judge = study.columns[-1]
    return max(
        (group for group in own if len(group) == most),
        key=lambda group: statistics.mean(value(record, judge) for record in group),
        default=[],
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def spread(values: list[float]) -> str:
    """Return ``mean (each)``."""
    return f"{statistics.mean(values):.1f} ({', '.join(f'{value:.1f}' for value in values)})"


def best_table(study: Study, best: dict[str, list[Record]]) -> list[str]:
    """Return the table of methods and what it means."""
    timing = study.folder / "step_time.json"
    timed = json.loads(timing.read_text()) if timing.exists() else {"seconds": {}}
    first = next(iter(study.methods))
    medians = {method: statistics.median(seconds) for method, seconds in timed["seconds"].items()}
    rows = []
    for method, group in best.items():
        figures = [spread([value(record, column) for record in group]) for column in study.columns]
        ratio = f"{medians[method] / medians[first]:.2f}" if method in medians else "-"
        rows.append([study.methods[method], f"{group[0]['lr']:g}", *figures, ratio])
    said = NOTE
    if medians:
        count = len(timed["seconds"][first])
        said += STEP.format(first=study.methods[first], count=count, commit=timed["commit"])
    return [table(["method", "lr", *(column.label for column in study.columns), "step"], rows), said]


def detail_table(study: Study, best: dict[str, list[Record]]) -> list[str]:
    """Return the table of further metrics in the end, one row each, if there are any."""
    if not study.details:
        return []
    rows = [
        [metric, *(spread([value(record, Column("", metric)) for record in group]) for group in best.values())]
        for metric in study.details
    ]
    return ["## In detail", table(["", *(study.methods[method] for method in best)], rows)]


def run_table(study: Study, groups: dict[tuple, list[Record]]) -> str:
    """Return the table of all runs."""
    rows = []
    for (method, changed, rate), group in sorted(groups.items()):
        for record in group:
            figures = [f"{value(record, column):.1f}" for column in study.columns]
            said = "; ".join(filter(None, ["diverged" if record["diverged"] else "", record.get("note", "")]))
            rows.append([study.methods[method], changed, f"{rate:g}", str(record["seed"]), *figures, said])
    return table(["method", "changed", "lr", "seed", *(column.label for column in study.columns), ""], rows)


def draw(study: Study, best: dict[str, list[Record]], path: Path) -> None:
    """Draw the last column's metric (left) and the training loss (right) of each method's best learning rate."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    metric = study.columns[-1].metric
    for number, (method, group) in enumerate(best.items()):
        label, colour = study.methods[method].replace("`", ""), f"C{number}"
        for seed, record in enumerate(group):
            points = sorted((int(key), found[metric]) for key, found in record["evaluations"].items())
            style = {"color": colour, "label": f"{label}, lr {record['lr']:g}" if seed == 0 else None}
            left.plot(*zip((0, 0), *points, strict=True), marker="o", **style)
            right.plot(*zip(*record["loss"], strict=True), alpha=0.8, **style)
    left.set(xlabel="iteration", ylabel=metric, title="validation")
    right.set(xlabel="iteration", ylabel="loss", title="training")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend()
    FigureCanvasAgg(figure).print_png(str(path))
