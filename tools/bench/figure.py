"""Figures of records: ratios to the baseline as bars, a panel a case. Imports no torch."""

from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.tables import Record

COLUMNS = 3


def draw(cases: Sequence[Record], title: str, path: Any) -> None:
    """Draws the ratios of cases, with their quartiles, and writes them as a PNG file."""
    columns = min(COLUMNS, max(1, len(cases)))
    rows = max(1, -(-len(cases) // columns))
    height = 0.8 + 0.3 * max((len(case["peers"]) for case in cases), default=1)
    figure = Figure(figsize=(4.2 * columns, 0.5 + height * rows), dpi=120, layout="constrained")
    figure.suptitle(title, fontsize=10)
    for axes, case in zip(figure.subplots(rows, columns, squeeze=False).flat, cases, strict=False):
        _bars(axes, case)
    for axes in figure.axes[len(cases) :]:
        axes.set_axis_off()
    FigureCanvasAgg(figure).print_png(str(path))


def _bars(axes: Any, case: Record) -> None:
    labels, peers = list(case["peers"]), list(case["peers"].values())
    spread = [[abs(peer["ratio"] - peer["ratio_quartiles"][end]) for peer in peers] for end in (0, 1)]
    colours = [f"C{index}" for index in range(len(labels))]
    axes.barh(labels, [peer["ratio"] for peer in peers], xerr=spread, color=colours, capsize=3)
    axes.invert_yaxis()
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_title(case["name"], fontsize=9)
    axes.set_xlabel(f"{case['unit']}, ratio to {labels[0]}", fontsize=8)
    axes.tick_params(labelsize=8)
