"""The figure of the comparison of shifts, and what it reads from the records."""

import statistics
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from studies.shift import FOLDER, METHODS

Record = dict[str, Any]
Groups = dict[str, list[Record]]
HEADS = ("vgg_flatten", "vgg_gap", "vgg_multi_gap", "vgg_multi_gap_flatten")
CHANCE = 100 * 31 / 63  # of white noise, on the harmonics of 1/32 of 64 shifts
FINE, FINE_CHANCE = 5, 100 * 7 / 55  # first bin beyond 1/16; white noise there, on the harmonics of 1/8


def figure_of(record: Record, border: str, measure: str, key: str) -> float:
    """Return a figure of a record in per cent; NaN where it is undefined."""
    value = record[border]["measures"][measure][key]
    return float("nan") if value is None else 100 * value


def mean_agreement(record: Record) -> float:
    """Return the mean agreement over all shifts but 0, in per cent."""
    return 100 * statistics.mean(record["mirror"]["measures"]["agreement"]["values"][1:])


def harmonics(record: Record, measure: str) -> float:
    """Return the share of the AC energy on harmonics of the stride, in per cent."""
    found = record["circular"]["measures"][measure]["spectrum"].get("x", {}).get("harmonic_share")
    return float("nan") if found is None else 100 * found


def fine_harmonics(record: Record) -> float:
    """Return the share of energy on multiples of 1/8 among frequencies above 1/16, in per cent: without slow trends."""
    power = _power(record)
    power[1:-1] *= 2  # those beyond one half are their mirror images
    bins = np.arange(FINE, len(power))
    return float(100 * power[bins[bins % 8 == 0]].sum() / power[bins].sum())


def swing(record: Record) -> float:
    """Return the standard deviation of confidence over circular shifts, in points."""
    return 100 * statistics.pstdev(record["circular"]["measures"]["confidence"]["values"])


def spread(values: list[float]) -> str:
    """Return ``mean (each)``, or the only value."""
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({', '.join(f'{value:.1f}' for value in values)})"


def curve(group: list[Record], measure: str) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels and the figure over that at 0, mean over seeds and both axes, in per cent."""
    sums: dict[int, list[float]] = {}
    for record in group:
        found = record["mirror"]
        values, first = found["measures"][measure]["values"], found["measures"][measure]["at_zero"]
        for (down, right), value in zip(found["shifts"], values, strict=True):
            sums.setdefault(down + right, []).append(100 * value / first)
    pixels = sorted(sums)
    return np.array(pixels), np.array([statistics.mean(sums[pixel]) for pixel in pixels])


def draw(groups: Groups) -> None:
    """Draw relative accuracy and agreement over shift, and spectra."""
    figure = Figure(figsize=(13, 7.5), layout="constrained", dpi=100)
    panels = figure.subplots(2, 3)
    kinds = [[m for m in groups if m not in (*HEADS, "vgg_trunk")], [m for m in groups if m in HEADS]]
    for methods, row in zip(kinds, panels, strict=True):
        for number, method in enumerate(methods):
            label, colour = METHODS[method].label.replace("`", ""), f"C{number}"
            for axes, measure in zip(row[:2], ("accuracy", "agreement"), strict=True):
                axes.plot(*curve(groups[method], measure), color=colour, marker="o", markersize=3, label=label)
            power = np.mean([_power(record) for record in groups[method]], axis=0)
            row[2].semilogy(np.arange(1, len(power)) / 64, power[1:], color=colour, linewidth=1.2)
        for axes, title in zip(
            row, ("accuracy over that without shift", "agreement", "spectrum of confidence"), strict=True
        ):
            axes.set(title=title, xlabel="shift in pixels", ylabel="per cent")
            axes.grid(alpha=0.3)
        row[2].set(xlabel="cycles a pixel (dotted: multiples of 1/32)", ylabel="energy")
        for harmonic in range(1, 17):
            row[2].axvline(harmonic / 32, color="grey", linestyle=":", linewidth=0.7)
        if methods:
            row[2].legend(*row[1].get_legend_handles_labels(), fontsize=8, loc="upper right")
    FigureCanvasAgg(figure).print_png(str(FOLDER.with_suffix(".png")))


def _power(record: Record) -> np.ndarray:
    """Energy by frequency of confidence over circular shifts, in order."""
    found = record["circular"]
    order = np.argsort([right for _, right in found["shifts"]])
    values = np.array(found["measures"]["confidence"]["values"])[order]
    return np.maximum(np.abs(np.fft.rfft(values) / len(values)) ** 2, 1e-12)
