"""What whitening does in a model, as a page and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ndpp_dense.atomic_file import replacing
from ndpp_dense.layers import NDConv2d, WhiteningConfig
from ndpp_dense.reports.drawing import drawing
from ndpp_dense.reports.page import Page, Picture, Section, Table, write_page
from ndpp_dense.reports.plots import figure_bytes
from ndpp_dense.reports.spectra import LayerSpectrum, draw_conditions, draw_spectrum, layer_spectra

__all__ = ["Inspection", "first_filters", "inspected", "spectra_section", "write_inspection"]

_MOST_DRAWN = 80  # spectra, one picture each
_MOST_FILTERS = 32
_HEAD = (
    "layer", "blocks", "columns", "condition before", "after", "largest direction before", "after", "variance kept",
)  # fmt: skip
_EXPLAINED = (
    "Before and after are the variances of a layer's input windows in each direction, as they come in and behind D. "
    "The condition number is the largest over the smallest: 1 is white. The share of the largest direction says how "
    "much of the input is one number. Variance kept is 100 % where whitening is complete; eps and few iterations keep "
    "less, on purpose: what hardly varies is noise."
)


@dataclass(frozen=True)
class Inspection:
    """What was found in the weights of a model.

    Attributes:
        name: Of the model, for the title.
        source: Where the weights are from, in a sentence.
        spectra: Of the ND++ layers.
        left: Layers left plain, with the reason.
        filters: Filters of the first layer as they are kept and as they act, ``(O, 3, H, W)`` each; None without.
    """

    name: str
    source: str
    spectra: Sequence[LayerSpectrum]
    left: Mapping[str, str] = field(default_factory=dict)
    filters: tuple[Tensor, Tensor] | None = None


def inspected(
    name: str, source: str, state: Mapping[str, Tensor], reasons: Mapping[str, str] | None = None
) -> Inspection:
    """Looks at the weights of a model.

    Args:
        name: Of the model.
        source: Where the weights are from, in a sentence.
        state: Weights by name.
        reasons: Why layers were left plain, by name, as far as it is known.

    Raises:
        ValueError: There are no ND++ layers.
    """
    spectra = layer_spectra(state)
    if not spectra:
        raise ValueError(
            f"{name} has no ND++ layers: none of its {len(state)} entries is a running covariance. Name weights that "
            "were trained with ND++, or a backbone by its name, to see what whitening would do."
        )
    whitened = {layer.name for layer in spectra}
    plain = [key.removesuffix(".weight") for key, value in state.items() if key.endswith(".weight") and value.dim() > 1]
    left = {layer: (reasons or {}).get(layer, "not recorded") for layer in plain if layer not in whitened}
    return Inspection(name, source, spectra, left, first_filters(state, spectra))


def first_filters(state: Mapping[str, Tensor], spectra: Sequence[LayerSpectrum]) -> tuple[Tensor, Tensor] | None:
    """The filters of the first layer that sees a picture, as they are kept and as they act on it: ``D w``."""
    weights = ((layer.name, state.get(f"{layer.name}.weight")) for layer in spectra)
    found = [(name, w) for name, w in weights if w is not None and w.dim() == 4 and w.shape[1] == 3 and w.shape[2] > 1]
    if not found:
        return None
    name, kept = found[0]
    layer = NDConv2d(3, kept.shape[0], (kept.shape[2], kept.shape[3]), config=WhiteningConfig(block_size_spatial=3))
    mean, whitening = (state[f"{name}.whitening.running_{part}"].float() for part in ("mean", "whitening"))
    if whitening.shape != layer.whitening.running_whitening.shape:
        return None
    with torch.no_grad():
        layer.weight.copy_(kept)
        return kept.float(), layer.whitened_parameters(mean, whitening)[0]


def write_inspection(found: Inspection, folder: Path) -> None:
    """Writes ``inspect.json``, and ``inspect.html`` after it; the folder is created if absent."""
    facts = {
        "name": found.name,
        "source": found.source,
        "layers": [layer.record() for layer in found.spectra],
        "left_plain": dict(found.left),
    }
    with replacing(folder / "inspect.json") as path:
        path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    with drawing(folder / "inspect.html"):
        write_page(_page(found, folder), folder / "inspect.html")


def spectra_section(spectra: Sequence[LayerSpectrum]) -> Section:
    """The table of all layers, and the picture of their condition numbers."""
    pictures = []
    with drawing("report.html, condition numbers"):
        figures = _medians(spectra)
        alt = f"Condition number of {len(spectra)} layers: median {figures['condition before D']} before D, "
        alt += f"{figures['condition after D']} after."
        caption = "Condition number of each layer's input"
        pictures.append(Picture(caption, alt, figure_bytes(draw_conditions(spectra))))
    table = Table("ND++ layers", _HEAD, [_row(layer) for layer in spectra])
    return Section("Whitening by layer", [_EXPLAINED], tables=[table], pictures=pictures)


def _page(found: Inspection, folder: Path) -> Page:
    faults = [f"{layer.name}: {layer.faults}." for layer in found.spectra if layer.faults]
    told = "Layers whose running statistics are not what evaluation should use." if faults else "All are in order."
    left = Table("Layers that were left plain", ("layer", "reason"), [*found.left.items()])
    return Page(
        title=f"{found.name}: what whitening does",
        state=f"{len(faults)} with faults" if faults else "in order",
        good=not faults,
        lead=found.source,
        figures={"ND++ layers": str(len(found.spectra)), "left plain": str(len(found.left)), **_medians(found.spectra)},
        sections=[
            Section("Statistics", [told], faults),
            spectra_section(found.spectra),
            *_filters(found, folder),
            _drawn(found, folder),
            Section("Plain layers", [] if found.left else ["There are none."], tables=[left] if found.left else []),
        ],
    )


def _medians(spectra: Sequence[LayerSpectrum]) -> dict[str, str]:
    return {
        "condition before D": _number(float(np.median([layer.condition_before for layer in spectra]))),
        "condition after D": _number(float(np.median([layer.condition_after for layer in spectra]))),
        "variance kept": f"{np.median([layer.kept for layer in spectra]):.0%}",
    }


def _row(layer: LayerSpectrum) -> list[Any]:
    conditions = [_number(layer.condition_before), _number(layer.condition_after)]
    shares = [f"{value:.0%}" for value in (layer.largest_before, layer.largest_after, layer.kept)]
    return [layer.name, layer.blocks, layer.columns, *conditions, *shares]


def _number(value: float) -> str:
    return "over 10¹¹" if value > 1e11 else f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"


def _filters(found: Inspection, folder: Path) -> list[Section]:
    if found.filters is None:
        return []
    made = []
    for title, filters in zip(("as they are kept", "as they act on the picture: D w"), found.filters, strict=True):
        with drawing(folder / f"inspect.html, filters {title}"):
            caption = f"First filters {title}"
            made.append(Picture(caption, f"{caption}, {len(filters)} of them.", _filter_sheet(filters)))
    lines = ["Each square is a filter of the first layer, its values stretched to the range that can be shown."]
    return [Section("First filters", lines, pictures=made)]


def _filter_sheet(filters: Tensor) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = filters[:_MOST_FILTERS]
    figure = Figure(figsize=(5.2, 0.65 * -(-len(shown) // 8)), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(-(-len(shown) // 8), 8, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, picture in zip(grid.flat, shown.permute(0, 2, 3, 1).cpu().numpy(), strict=False):
        low, high = np.percentile(picture, (1, 99))
        axes.imshow(np.clip((picture - low) / max(high - low, 1e-12), 0, 1), interpolation="nearest")
    return figure_bytes(figure)


def _drawn(found: Inspection, folder: Path) -> Section:
    pictures = []
    for layer in found.spectra[:_MOST_DRAWN]:
        with drawing(folder / f"inspect.html, {layer.name}"):
            alt = (
                f"Variance by direction of {layer.name}: condition number {_number(layer.condition_before)} before D, "
                f"{_number(layer.condition_after)} after."
            )
            pictures.append(Picture(layer.name, alt, figure_bytes(draw_spectrum(layer))))
    more = len(found.spectra) - _MOST_DRAWN
    lines = ["Variance in each direction over its mean; a white input is a flat line at 1."]
    lines += [f"The first {_MOST_DRAWN} layers; inspect.json has the {more} others."] if more > 0 else []
    return Section("Spectra", lines, pictures=pictures, small=True)
