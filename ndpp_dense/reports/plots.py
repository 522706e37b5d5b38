"""Curves as the reports of all frameworks draw them."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ndpp_dense.atomic_file import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Panel",
    "Series",
    "draw_losses",
    "draw_rate",
    "figure_bytes",
    "marker",
    "panel_png",
    "save_panels",
    "save_row",
    "say",
]

Series = tuple[np.ndarray, np.ndarray]  # iterations and values
_SMOOTHED_SHARE = 0.05  # of all points, on each side of a point
_SMALL = (4.6, 3.0)  # inches of a panel by itself: its words can be read on a telephone


@dataclass(frozen=True)
class Panel:
    """Curves that share axes.

    Attributes:
        role: ``loss``, ``parts``, ``score`` or ``rate``: the same in all frameworks, so that runs can be compared.
        title: In words.
        series: By label; of ``loss`` and ``score``, the first is the one that counts.
        draw: Draws them.
    """

    role: str
    title: str
    series: Mapping[str, Series]
    draw: Callable[[Axes, Mapping[str, Series]], None]

    def in_words(self) -> str:
        """What the picture shows, for who cannot see it."""
        told = [
            f"{label}: {len(values)} values up to iteration {steps[-1]:g}, first {values[0]:.4g}, last {values[-1]:.4g}"
            for label, (steps, values) in self.series.items()
            if len(values)
        ]
        return f"{self.title}. {'; '.join(told) or 'Nothing recorded'}."


def save_panels(panels: Sequence[Panel], out_png: str | os.PathLike[str]) -> None:
    """Draws four panels that share the iterations, 1650 x 1050 pixels; the folder is created if absent."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = _figure((11, 7), 150)
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    for index, (axes, panel) in enumerate(zip(figure.subplots(2, 2, sharex=True).flat, panels, strict=True)):
        _draw(axes, panel, named=index >= 2)
    with replacing(out_png) as path:
        figure.savefig(path)


def save_row(panels: Sequence[Panel], out_png: str | os.PathLike[str]) -> None:
    """Draws panels beside each other; the folder is created if absent."""
    figure = _figure((5 * len(panels), 3.6), 150)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        _draw(axes, panel, named=True)
    with replacing(out_png) as path:
        figure.savefig(path)


def panel_png(panel: Panel) -> bytes:
    """Draws one panel by itself, 920 x 600 pixels."""
    figure = _figure(_SMALL, 200)
    _draw(figure.subplots(), panel, named=True)
    return figure_bytes(figure)


def figure_bytes(figure: Figure, kind: str = "png") -> bytes:
    """A figure as the bytes of a picture.

    Args:
        figure: Any.
        kind: ``png``, or ``jpeg`` for photographs.
    """
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, pil_kwargs={"quality": 85} if kind == "jpeg" else {"optimize": True})
    return stream.getvalue()


def draw_losses(axes: Axes, series: Mapping[str, Series]) -> None:
    """Draws each loss faintly and its moving mean strongly.

    Args:
        axes: where to draw.
        series: by label; empty ones are left out.
    """
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


def draw_rate(axes: Axes, series: Mapping[str, Series]) -> None:
    """Draws the learning rate."""
    for iterations, values in series.values():
        if len(values):
            axes.plot(iterations, values, color="tab:green", linewidth=1.8, marker=marker(values))
            axes.set_ylim(bottom=0)
            return
    say(axes, "not recorded")


def marker(values: np.ndarray) -> str | None:
    """A dot where there is too little for a line to be seen."""
    return "o" if len(values) < 3 else None


def say(axes: Axes, text: str) -> None:
    """Writes a text where there is nothing to draw."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="grey")


def _figure(size: tuple[float, float], dpi: int) -> Figure:
    # matplotlib's object interface: pyplot keeps global state, and picks a backend by what it finds.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw(axes: Axes, panel: Panel, named: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(panel.title, loc="left", fontweight="bold")
    panel.draw(axes, panel.series)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if named:
        axes.set_xlabel("iteration")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _smooth(values: np.ndarray) -> np.ndarray:
    """Mean over a centred window that shrinks towards both ends, so that the ends are not pulled inwards."""
    reach = int(len(values) * _SMOOTHED_SHARE)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    side = np.minimum(np.minimum(index, len(values) - 1 - index), reach)
    return (sums[index + side + 1] - sums[index - side]) / (2 * side + 1)
