"""Tables and a figure from the records of tools/study_nuclei.py."""

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

STOPPED = "stopped"  # in the records of runs that somebody ended after an evaluation
HEAD = """# ND++ against group and batch normalisation on cell nuclei

Mask R-CNN R18-FPN from scratch, 300 iterations of 4 images (short side 192) of the Data Science Bowl 2018 nuclei
(380 training, 120 validation images, one category), the same for every row: `mask_rcnn_{{bn,gn,ndpp}}_small.yaml`.
COCO AP on the validation images, by pycocotools. Written by `python tools/study_nuclei.py table` from the JSON files in
`nuclei/`, one a run; the runs by `python tools/study_nuclei.py run --data FOLDER`.

Hardware: {hardware}. Code: {commits}.

## Each method at its own best learning rate

{best}

Mean over the seeds, the seeds' own values in brackets. "Step" is the median time of a training step over that of batch
norm, measured in one process, interleaved ({steps} steps each).

![AP and loss](nuclei.png)

## All runs

{runs}

The second column is what a run changed. "stopped 150": ended by hand after the evaluation at iteration 150; that record
was made by hand from the run's `metrics.json`, not by `study_nuclei.py run`. The script first labelled some last
evaluations 301; they were relabelled 300. Commits are those at a run's end (`+`: with edits): code was edited while
runs went on. Batch norm and `paper` were tried at one learning rate only.
"""


def write(folder: Path, methods: dict[str, tuple[str, str, list[str]]]) -> None:
    """Write ``<folder>.md`` and ``<folder>.png``.

    Args:
        folder: holds the records.
        methods: name to label, config and overrides.
    """
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*_seed*.json"))]
    if not records:
        raise SystemExit(f"no records in {folder}: run `python tools/study_nuclei.py run` first")
    timing = folder / "step_time.json"
    seconds = json.loads(timing.read_text())["seconds"] if timing.exists() else {}
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for record in records:
        groups[record["method"], trial(record, methods), record["lr"]].append(record)
    best = {m: group for m in methods if (group := best_group(m, groups))}
    text = HEAD.format(
        hardware=", ".join(sorted({r["hardware"] for r in records})),
        commits=", ".join(sorted({r["commit"] for r in records})),
        best=best_table(best, seconds, methods),
        runs=run_table(groups, methods),
        steps=len(next(iter(seconds.values()), [])),
    )
    folder.with_suffix(".md").write_text(text)
    draw(best, methods, folder.with_suffix(".png"))


def trial(record: dict[str, Any], methods: dict) -> str:
    """Return what a run changed beside the learning rate, as ``key value`` words."""
    extra = record["overrides"][len(methods[record["method"]][2]) :]
    stopped = [f"{STOPPED} {record[STOPPED]}"] if STOPPED in record else []
    return " ".join([*(word.rsplit(".", 1)[-1].lower() for word in extra), *stopped])


def final(record: dict[str, Any], column: int = 0) -> float:
    """Return a metric after the last iteration; 0 for a run that diverged."""
    return 0.0 if record["diverged"] or not record["AP"] else record["AP"][max(record["AP"], key=int)][column]


def half(record: dict[str, Any]) -> float:
    """Return mask AP at the first evaluation; 0 if training did not get there."""
    return record["AP"][min(record["AP"], key=int)][0] if record["AP"] else 0.0


def best_group(method: str, groups: dict[tuple, list[dict]]) -> list[dict]:
    """Return the runs of the learning rate with the best mean final AP, among those with most seeds.

    Trials do not count; where a method has no whole runs, those that stopped half way do.
    """
    own = [group for (name, extra, _), group in groups.items() if name == method and not extra]
    own = own or [group for (name, extra, _), group in groups.items() if name == method and extra.startswith(STOPPED)]
    most = max((len(group) for group in own), default=0)
    return max((g for g in own if len(g) == most), key=lambda g: statistics.mean(map(final, g)), default=[])


def spread(values: list[float]) -> str:
    """Return ``mean (each)``."""
    return f"{statistics.mean(values):.1f} ({', '.join(f'{value:.1f}' for value in values)})"


def best_table(best: dict[str, list[dict]], seconds: dict[str, list[float]], methods: dict) -> str:
    """Return the table of methods."""
    rows = [
        "| method | lr | mask AP, half way | mask AP | mask AP50 | box AP | step |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, group in best.items():
        figures = [spread([half(r) for r in group])]
        whole = STOPPED not in group[0]
        figures += [spread([final(r, column) for r in group]) if whole else "not run" for column in range(3)]
        ratio = "-"
        if seconds:
            ratio = f"{statistics.median(seconds[method]) / statistics.median(seconds['bn']):.2f}"
        cells = [methods[method][0], f"{group[0]['lr']:g}", *figures, ratio]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def run_table(groups: dict[tuple, list[dict]], methods: dict) -> str:
    """Return the table of all runs."""
    rows = ["| method | changed | lr | seed | mask AP, half way | mask AP | box AP |", "|---|---|---|---|---|---|---|"]
    for (method, extra, lr), group in sorted(groups.items()):
        for r in group:
            end = (
                ["not run", ""]
                if STOPPED in r
                else ["diverged", ""]
                if r["diverged"]
                else [f"{final(r):.1f}", f"{final(r, 2):.1f}"]
            )
            cells = [methods[method][0], extra, f"{lr:g}", str(r["seed"]), f"{half(r):.1f}", *end]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def draw(best: dict[str, list[dict]], methods: dict, path: Path) -> None:
    """Draw mask AP (left) and the smoothed training loss (right) of each method's best learning rate."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, (method, group) in enumerate(best.items()):
        label, colour = methods[method][0].replace("`", ""), f"C{number}"
        for seed, record in enumerate(group):
            points = sorted((int(k), v[0]) for k, v in record["AP"].items())
            style = {"color": colour, "label": f"{label}, lr {record['lr']:g}" if seed == 0 else None}
            left.plot(*zip((0, 0), *points, strict=True), marker="o", **style)
            iterations, losses = zip(*record["loss"], strict=True)
            right.plot(iterations, losses, alpha=0.8, **style)
    left.set(xlabel="iteration", ylabel="mask AP", title="validation")
    right.set(xlabel="iteration", ylabel="total loss (median of 20 iterations)", title="training")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend()
    FigureCanvasAgg(figure).print_png(str(path))
