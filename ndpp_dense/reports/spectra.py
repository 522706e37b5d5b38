"""What whitening does in each layer of a model, read from its running statistics.

Shape suffixes: G blocks of a layer, D columns of a block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ndpp_dense.reports.drawing import literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "MOST_BLOCKS",
    "LayerSpectrum",
    "conditions_picture",
    "draw_conditions",
    "draw_spectrum",
    "layer_spectra",
]

_LAGS_FROM = 1e-3  # of what is 1e-6 by rounding
MOST_BLOCKS = 4  # of a layer, where time counts
_COV, _D, _WEIGHT = ".whitening.running_cov", ".whitening.running_whitening", ".whitening.running_weight"
_FLATTEST = 1e-12  # smallest eigenvalue over the largest: below it is rounding


@dataclass(frozen=True)
class LayerSpectrum:
    """The variance of a layer's data matrix in each direction, before and after whitening.

    Figures of several blocks are their median, spectra their mean.

    Attributes:
        name: Of the layer.
        blocks: Whitening matrices that it has.
        columns: Numbers of a block's window, D.
        before: ``(D,)``, variances over their mean, the largest first.
        after: The same behind D.
        condition_before: Largest over smallest variance.
        condition_after: The same behind D.
        largest_before: Share of the variance in the largest direction, 0 to 1.
        largest_after: The same behind D.
        kept: Mean variance behind D, 0 to about 1: what eps and few iterations leave of a white input.
        weight: Of all steps in the running statistics: 0 for none, 1 in the limit.
        lag: How far D is from being a function of the covariance that stands beside it: 0 if it was solved from it.
    """

    name: str
    blocks: int
    columns: int
    before: Sequence[float]
    after: Sequence[float]
    condition_before: float
    condition_after: float
    largest_before: float
    largest_after: float
    kept: float
    weight: float
    lag: float

    @property
    def faults(self) -> str:
        """What is wrong with the statistics; empty for nothing."""
        if self.weight == 0:
            return "never taken: the layer did not run in training"
        found = [f"of few steps (weight {self.weight:.2g})"] if self.weight < 0.9 else []
        return ", ".join(
            [*found, *([f"D lags behind the covariance by {self.lag:.1%}"] if self.lag > _LAGS_FROM else [])]
        )

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "faults": self.faults}


@torch.no_grad()
def layer_spectra(state: Mapping[str, Tensor], most_blocks: int | None = None) -> list[LayerSpectrum]:
    """The spectra of all ND++ layers of a model.

    Args:
        state: Its weights by name.
        most_blocks: Look at so many blocks of a layer, spread evenly; None looks at all.
    """
    names = [name.removesuffix(_COV) for name in state if name.endswith(_COV)]
    return [_spectrum(name, state, most_blocks) for name in names if f"{name}{_D}" in state]


def _spectrum(name: str, state: Mapping[str, Tensor], most_blocks: int | None) -> LayerSpectrum:
    cov_GDD, d_GDD = state[f"{name}{_COV}"], state[f"{name}{_D}"]
    blocks, columns = cov_GDD.shape[:2]
    chosen = np.linspace(0, blocks - 1, min(blocks, most_blocks or blocks)).round().astype(int).tolist()
    cov, d = (part[chosen].detach().double().cpu() for part in (cov_GDD, d_GDD))
    product = d @ cov
    lag = (product - product.mT).flatten(1).norm(dim=1) / product.flatten(1).norm(dim=1).clamp_min(1e-300)
    before, after = (_eigenvalues(matrix) for matrix in (cov, product @ d.mT))
    return LayerSpectrum(
        name=name,
        blocks=blocks,
        columns=columns,
        before=_shape(before),
        after=_shape(after),
        condition_before=_condition(before),
        condition_after=_condition(after),
        largest_before=_largest(before),
        largest_after=_largest(after),
        kept=float(np.median(after.mean(1))),
        weight=float(state.get(f"{name}{_WEIGHT}", torch.ones(()))),
        lag=float(lag.median()),
    )


def _eigenvalues(matrix_GDD: Tensor) -> np.ndarray:
    """``(G, D)``, the largest first."""
    values = torch.linalg.eigvalsh((matrix_GDD + matrix_GDD.mT) / 2).flip(1).clamp_min(0)
    return values.numpy()


def _shape(values_GD: np.ndarray) -> list[float]:
    return (values_GD / np.maximum(values_GD.mean(1, keepdims=True), 1e-300)).mean(0).tolist()


def _condition(values_GD: np.ndarray) -> float:
    smallest = np.maximum(values_GD[:, -1], np.maximum(values_GD[:, 0] * _FLATTEST, 1e-300))
    return float(np.median(values_GD[:, 0] / smallest))


def _largest(values_GD: np.ndarray) -> float:
    return float(np.median(values_GD[:, 0] / np.maximum(values_GD.sum(1), 1e-300)))


def draw_conditions(spectra: Sequence[LayerSpectrum]) -> Figure:
    """Draws the condition number of each layer before and after whitening."""
    figure, axes = _figure((7.6, 3.6))
    places = np.arange(1, len(spectra) + 1)
    before = [layer.condition_before for layer in spectra]
    after = [layer.condition_after for layer in spectra]
    axes.vlines(places, after, before, color="#9fb3c8", linewidth=1)
    axes.semilogy(places, before, "o", color="tab:orange", markersize=4, label="before D")
    axes.semilogy(places, after, "s", color="tab:blue", markersize=4, label="after D")
    axes.set_title("Condition number of each layer's input", loc="left", fontweight="bold")
    axes.set_xlabel("layer, in the order of the table")
    _dress(axes)
    return figure


def conditions_picture(model: nn.Module) -> np.ndarray | None:
    """The condition numbers of a model's layers as a picture, ``(H, W, 3)`` uint8; None where it has no ND++ layers.

    Four blocks of a layer are looked at: for a ResNet-50 that takes some tenths of a second.
    """
    spectra = layer_spectra(model.state_dict(), MOST_BLOCKS)
    if not spectra:
        return None
    figure: Any = draw_conditions(spectra)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def draw_spectrum(layer: LayerSpectrum) -> Figure:
    """Draws the variances of one layer, before and after whitening."""
    figure, axes = _figure((3.6, 2.4))
    places = np.arange(1, layer.columns + 1)
    for values, label, colour in ((layer.before, "before D", "tab:orange"), (layer.after, "after D", "tab:blue")):
        axes.semilogy(places, np.maximum(values, 1e-9), color=colour, label=label, linewidth=1.8)
    axes.set_title(literal(layer.name, 44), loc="left", fontsize=9, fontweight="bold")
    axes.set_xlabel("direction")
    _dress(axes)
    return figure


def _figure(size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _dress(axes: Any) -> None:
    from matplotlib.ticker import NullFormatter

    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
