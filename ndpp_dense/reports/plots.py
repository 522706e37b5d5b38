"""Curves as the reports of all frameworks draw them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ndpp_dense.atomic_file import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Series", "draw_losses", "draw_rate", "marker", "say", "save_figure", "two_by_two"]

Series = tuple[np.ndarray, np.ndarray]  # iterations and values
_SMOOTHED_SHARE = 0.05  # of all points, on each side of a point


def two_by_two() -> tuple[Figure, np.ndarray]:
    """Makes a figure of 1650 x 1050 pixels with four axes that share the iterations."""
    # matplotlib's object interface: pyplot keeps global state, and picks a backend by what it finds.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(11, 7), dpi=150, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    FigureCanvasAgg(figure)
    return figure, figure.subplots(2, 2, sharex=True)


def save_figure(figure: Figure, out_png: str | os.PathLike[str]) -> None:
    """Puts grid and axis names on the figure and writes it; the folder is created if absent."""
    from matplotlib.ticker import MaxNLocator

    for index, axes in enumerate(figure.axes):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if index >= 2:
            axes.set_xlabel("iteration")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    with replacing(out_png) as path:
        figure.savefig(path)


def draw_losses(axes: Axes, series: Mapping[str, Series], title: str) -> None:
    """Draws each loss faintly and its moving mean strongly.

    Args:
        axes: where to draw.
        series: by label; empty ones are left out.
        title: of the axes.
    """
    axes.set_title(title, loc="left", fontweight="bold")
    drawn = 0
    for index, (label, (iterations, values)) in enumerate(series.items()):
        if not len(values):
            continue
        colour = f"C{index % 10}"
        axes.plot(iterations, values, color=colour, alpha=0.25, linewidth=1)
        axes.plot(iterations, _smooth(values), color=colour, linewidth=1.8, marker=marker(values), label=label)
        drawn += 1
    if not drawn:
        say(axes, "not recorded")
        return
    axes.set_ylim(bottom=0)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=9, loc="upper right")  # losses fall: this corner is free


def draw_rate(axes: Axes, series: Series) -> None:
    """Draws the learning rate."""
    axes.set_title("Learning rate", loc="left", fontweight="bold")
    iterations, values = series
    if not len(values):
        say(axes, "not recorded")
        return
    axes.plot(iterations, values, color="tab:green", linewidth=1.8, marker=marker(values))
    axes.set_ylim(bottom=0)


def marker(values: np.ndarray) -> str | None:
    """A dot where there is too little for a line to be seen."""
    return "o" if len(values) < 3 else None


def say(axes: Axes, text: str) -> None:
    """Writes a text where there is nothing to draw."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="grey")


def _smooth(values: np.ndarray) -> np.ndarray:
    """Mean over a centred window that shrinks towards both ends, so that the ends are not pulled inwards."""
    reach = int(len(values) * _SMOOTHED_SHARE)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    side = np.minimum(np.minimum(index, len(values) - 1 - index), reach)
    return (sums[index + side + 1] - sums[index - side]) / (2 * side + 1)
