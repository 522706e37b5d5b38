"""The curve, its spectrum and the map over both axes as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ndpp_dense.atomic_file import replacing
from ndpp_dense.reports.drawing import literal
from ndpp_dense.robustness.shift.curve import ShiftResult
from ndpp_dense.robustness.shift.report import spectra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_shift"]

_AXES = {"x": ("to the right", "-"), "y": ("down", "--")}


def draw_shift(result: ShiftResult, path: str | Path, title: str = "") -> None:
    """Writes curves along the axes, spectra where there are some, and a map where all pairs were measured, as PNG.

    Args:
        result: Of a measurement.
        path: File to write.
        title: Above the picture.
    """
    # matplotlib's object interface: pyplot keeps global state, and picks a backend by what it finds.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    name = result.measures[0].name
    panels: list[Any] = [_draw_curves]
    panels += [_draw_spectrum] if spectra(result, name) else []
    panels += [_draw_map] if result.plane(name) is not None else []
    figure = Figure(figsize=(1 + 4.5 * len(panels), 3.8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for draw, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        draw(result, axes)
    words = title or f"{result.name}, border {result.border}, {result.num_images} images"
    figure.suptitle(literal(words, longest=120), fontsize=10)
    with replacing(path) as made:
        figure.savefig(made)


def _draw_curves(result: ShiftResult, axes: Axes) -> None:
    """Each measure along each axis; the interval of the first one."""
    for number, measure in enumerate(result.measures):
        values = 100 * result.values(measure.name)
        low, high = 100 * result.intervals(measure.name) if number == 0 else (values, values)
        for axis, (words, style) in _AXES.items():
            pixels, chosen = result.along(axis)
            if not len(pixels):
                continue
            axes.plot(
                pixels, values[chosen], style, color=f"C{number}", linewidth=1.4, label=f"{measure.name}, {words}"
            )
            if number == 0:
                axes.fill_between(pixels, low[chosen], high[chosen], color="C0", alpha=0.12, linewidth=0)
        if not any(len(result.along(axis)[0]) for axis in _AXES):  # the diagonal
            order = np.argsort(result.shifts[:, 0])
            axes.plot(result.shifts[order, 0], values[order], color=f"C{number}", label=measure.name)
    axes.set(xlabel="shift in pixels", ylabel="per cent", title="against shift")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7, frameon=False)


def _draw_spectrum(result: ShiftResult, axes: Axes) -> None:
    """Energy by frequency of the last measure, the smoothest one, and of the first; harmonics of the stride marked."""
    for number, measure in enumerate(result.measures):
        for axis, found in spectra(result, measure.name).items():
            power = np.maximum(found.power[1:], 1e-16)
            style = _AXES[axis][1]
            axes.semilogy(found.frequencies[1:], power, style, color=f"C{number}", linewidth=1)
    for harmonic in range(1, result.stride // 2 + 1):
        axes.axvline(harmonic / result.stride, color="grey", alpha=0.25, linewidth=0.8)
    axes.set(xlabel="cycles a pixel", ylabel="energy", title=f"spectrum (grey: multiples of 1/{result.stride})")


def _draw_map(result: ShiftResult, axes: Axes) -> None:
    """The first measure over both axes."""
    name = result.measures[0].name
    plane = result.plane(name)
    assert plane is not None
    downs, rights, values = plane
    mesh = axes.pcolormesh(rights, downs, 100 * values, shading="nearest", cmap="viridis")
    axes.invert_yaxis()
    axes.set(xlabel="pixels to the right", ylabel="pixels down", title=f"{name}, per cent", aspect="equal")
    axes.figure.colorbar(mesh, ax=axes)
