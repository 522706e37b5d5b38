"""What a measurement leaves for people and programs: JSON, CSV and a table in words."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ndpp_dense.atomic_file import replacing
from ndpp_dense.robustness.shift.aliasing import ShiftSpectrum, shift_spectrum
from ndpp_dense.robustness.shift.curve import ShiftResult

__all__ = ["shift_record", "shift_table", "spectra", "write_shift_csv", "write_shift_json"]


def spectra(result: ShiftResult, name: str) -> dict[str, ShiftSpectrum]:
    """The spectrum of a measure along each axis that was measured at every pixel, over two strides at least."""
    found = {}
    for axis in ("x", "y"):
        pixels, chosen = result.along(axis)
        # A shift may be missing, or a figure undefined: there is no spectrum then.
        try:
            found[axis] = shift_spectrum(pixels, result.values(name)[chosen], result.stride)
        except ValueError:
            continue
    return found


def shift_record(result: ShiftResult, facts: Mapping[str, Any] | None = None, resamples: int = 1000) -> dict[str, Any]:
    """Everything that is reported, as JSON can hold it; what is not a number becomes None.

    Args:
        result: Of a measurement.
        facts: What decided it, kept as it is.
        resamples: Draws for the intervals.
    """
    measures = {}
    for measure in result.measures:
        short = result.summary(measure.name, resamples)
        measures[measure.name] = {
            "at_zero": short.at_zero,
            "mean_relative_loss": short.mean_loss,
            "mean_relative_loss_95": list(short.mean_loss_interval),
            "worst_relative_loss": short.worst_loss,
            "worst_shift": list(short.worst_shift),
            "lowest": short.lowest,
            "values": result.values(measure.name).tolist(),
            "references": result.references(measure.name).tolist(),
            "spectrum": {
                axis: {"harmonic_share": found.harmonic_share, "chance": found.chance, "length": found.length}
                for axis, found in spectra(result, measure.name).items()
            },
        }
    record = {
        "name": result.name,
        "border": result.border,
        "images": result.num_images,
        "stride": result.stride,
        "shifts": result.shifts.tolist(),
        "measures": measures,
        "settings": dict(facts or {}),
    }
    return _plain(record)


def write_shift_json(record: Mapping[str, Any], path: str | Path) -> None:
    """Writes what :func:`shift_record` made."""
    with replacing(path) as made:
        made.write_text(json.dumps(record, allow_nan=False) + "\n", encoding="utf-8")


def write_shift_csv(result: ShiftResult, path: str | Path) -> None:
    """Writes a row for each shift: both of its parts, and of each measure the figure, its interval and its loss."""
    columns: dict[str, list[Any]] = {"down": result.shifts[:, 0].tolist(), "right": result.shifts[:, 1].tolist()}
    for measure in result.measures:
        low, high = result.intervals(measure.name)
        columns[measure.name] = result.values(measure.name).tolist()
        columns[f"{measure.name}_low"], columns[f"{measure.name}_high"] = low.tolist(), high.tolist()
        columns[f"{measure.name}_loss"] = result.losses(measure.name).tolist()
    rows = zip(*columns.values(), strict=True)
    with replacing(path) as made, made.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows([f"{value:.6g}" if isinstance(value, float) else value for value in row] for row in rows)


def shift_table(record: Mapping[str, Any]) -> str:
    """The summary in lines for a terminal, in per cent."""
    head = ["measure", "no shift", "mean loss", "95 % interval", "worst loss", "at (down, right)", "on harmonics"]
    rows = [head]
    for name, found in record["measures"].items():
        low, high = found["mean_relative_loss_95"]
        shares = [f"{axis} {_share(s['harmonic_share'])}" for axis, s in found["spectrum"].items()]
        rows.append(
            [
                name,
                _share(found["at_zero"]),
                _share(found["mean_relative_loss"]),
                f"{_share(low)} to {_share(high)}",
                _share(found["worst_relative_loss"]),
                "({}, {})".format(*found["worst_shift"]),
                ", ".join(shares) or "-",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "undefined" if value is None else f"{100 * value:.1f}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
