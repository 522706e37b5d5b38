"""Figures of agreement with ratings and of invariance to shifts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ndpp_dense.atomic_file import replacing
from ndpp_dense.robustness.perceptual.correlation import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_agreement", "draw_ratios", "label", "new_figure", "save_png"]

_LABELS = {
    "gap trained": "GAP, trained weights",
    "gap uniform": "GAP, uniform weights",
    "activation trained": "activations in place, trained weights",
    "activation uniform": "activations in place, uniform weights",
    "random gap trained": "GAP, untrained backbone, trained weights",
    "random gap uniform": "GAP, untrained backbone, uniform weights",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "lpips_vgg": "LPIPS (VGG-16)",
    "lpips_alex": "LPIPS (AlexNet)",
    "dists": "DISTS",
}


def label(name: str) -> str:
    """How a distance is called in figures and tables."""
    return _LABELS.get(name, name)


def new_figure(width: float, height: float) -> Figure:
    """Makes an empty figure, sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes the figure, whole or not at all."""
    with replacing(path) as made:
        figure.savefig(made)


def draw_agreement(axes: Axes, rows: Mapping[str, Sequence[Interval]], xlabel: str) -> None:
    """Draws estimates with their intervals, a row for each name; more than one estimate a name are beside each other.

    Args:
        axes: Where to.
        rows: By name, in the order from top to bottom.
        xlabel: What is estimated.
    """
    for place, intervals in enumerate(rows.values()):
        for index, interval in enumerate(intervals):
            height = place + 0.16 * (index - (len(intervals) - 1) / 2)
            ends = [[interval.value - interval.low], [interval.high - interval.value]]
            style: dict[str, Any] = {"color": f"C{place % 10}", "marker": "os^v"[index % 4], "capsize": 3}
            axes.errorbar([interval.value], [height], xerr=ends, linestyle="none", **style)
    axes.set_yticks(range(len(rows)), [label(name) for name in rows])
    axes.invert_yaxis()
    axes.set_xlabel(xlabel)
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def draw_ratios(axes: Axes, shifts: Sequence[int], rows: Mapping[str, Sequence[Interval]], title: str) -> None:
    """Draws ratios of distances by shift, with their intervals, on a logarithmic scale.

    Args:
        axes: Where to.
        shifts: In pixels.
        rows: By name, one interval for each shift.
        title: Of the axes.
    """
    for place, (name, intervals) in enumerate(rows.items()):
        colour = f"C{place % 10}"
        axes.plot(shifts, [i.value for i in intervals], color=colour, marker="o", markersize=4, label=label(name))
        axes.fill_between(
            shifts, [i.low for i in intervals], [i.high for i in intervals], color=colour, alpha=0.15, linewidth=0
        )
    axes.axhline(1, color="grey", linewidth=1, linestyle="--")
    axes.set_yscale("log")
    ticks = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_xticks(shifts)
    axes.set_xlim(min(shifts) - 0.4, max(shifts) + 0.4)
    axes.set(xlabel="shift, pixels", ylabel="ratio of distances")
    axes.set_title(title, loc="left")
    axes.grid(alpha=0.25, which="both")
    axes.spines[["top", "right"]].set_visible(False)
