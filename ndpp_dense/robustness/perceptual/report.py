"""What an evaluation of perceptual distances leaves: results, a table of distances, weights, figures."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ndpp_dense.atomic_file import replacing
from ndpp_dense.robustness.perceptual.evaluation import Row
from ndpp_dense.robustness.perceptual.invariance import SHIFTS, Invariance
from ndpp_dense.robustness.perceptual.plots import draw_agreement, draw_ratios, label, new_figure, save_png
from ndpp_dense.robustness.perceptual.rating_sets import RatingSet, ReferenceSplit

__all__ = ["lines", "results", "write_distances", "write_figures", "write_json"]


def results(
    ratings: RatingSet,
    split: ReferenceSplit,
    rows: Mapping[str, Row],
    ratios: Mapping[str, Invariance],
    missing: Mapping[str, str],
) -> dict[str, Any]:
    """All figures as plain numbers and words."""
    return {
        "set": ratings.name,
        "pairs": len(ratings.pairs),
        "references": {"train": len(split.train), "test": len(split.test)},
        "distances": {name: row.as_dict() for name, row in rows.items()},
        "shift": {"pixels": list(SHIFTS), **{name: found.as_dict() for name, found in ratios.items()}},
        "not_measured": dict(missing),
    }


def write_json(found: Mapping[str, Any], path: Path) -> None:
    """Writes results; what is not a number becomes null."""
    with replacing(path) as made:
        made.write_text(json.dumps(plain(found), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """Mappings, lists, words and finite numbers; other numbers become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and value - value != 0 else value


def write_distances(ratings: RatingSet, split: ReferenceSplit, rows: Mapping[str, Row], path: Path) -> None:
    """Writes one line a pair: names, kind, level, rating, part, and every distance."""
    with replacing(path) as made, made.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["reference", "distorted", "kind", "level", "difference", "part", *rows])
        for number, pair in enumerate(ratings.pairs):
            part = "train" if pair.reference in split.train else "test" if pair.reference in split.test else ""
            values = [f"{row.values[number]:.7g}" for row in rows.values()]
            writer.writerow([pair.reference, pair.distorted, pair.kind, pair.level, pair.difference, part, *values])


def write_figures(rows: Mapping[str, Row], ratios: Mapping[str, Invariance], folder: Path) -> list[Path]:
    """Writes ``agreement.png``, and ``shift.png`` where ratios were measured; returns the files."""
    figure = new_figure(8, 1.2 + 0.4 * len(rows))
    xlabel = "Spearman correlation on held-out references, 95% interval"
    draw_agreement(figure.subplots(), {name: [row.agreement.spearman] for name, row in rows.items()}, xlabel)
    files = [folder / "agreement.png"]
    save_png(figure, files[0])
    if ratios:
        figure = new_figure(10, 5)
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, what in ((left, "noise"), (right, "blur")):
            found = {name: getattr(ratio, what) for name, ratio in ratios.items()}
            draw_ratios(axes, SHIFTS, found, f"shift over {what} of equal PSNR")
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
        files.append(folder / "shift.png")
        save_png(figure, files[1])
    return files


def lines(rows: Mapping[str, Row], ratios: Mapping[str, Invariance], missing: Mapping[str, str]) -> list[str]:
    """The results in words, one line a distance."""
    said = []
    for name, row in rows.items():
        words = f"{label(name)}: Spearman {row.agreement.spearman}, Kendall {row.agreement.kendall}"
        if name in ratios:
            found = ratios[name]
            words += f"; shift over noise {found.mean_noise}, over blur {found.mean_blur}"
        said.append(words)
    return said + [f"{label(name)}: not measured here: {reason}" for name, reason in missing.items()]
