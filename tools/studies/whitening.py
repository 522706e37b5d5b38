"""Draw what D does: to a photograph, to the spectrum of its windows, and to the first filters of a trained network."""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from records import ROOT, table
from torch import Tensor, nn

FOLDER = ROOT / "docs" / "explanation"
PAGE, RECORD = FOLDER / "whitening.md", FOLDER / "whitening.json"
BLOCK = r"(<!-- study:whitening -->\n).*?(<!-- /study:whitening -->)"
KERNEL = 5
# Label, solver, iterations and eps of what is compared; without a solver the windows stay as they are.
WAYS: dict[str, tuple[str, int, float]] = {
    "input": ("", 0, 0.0),
    "`fast`": ("newton", 3, 0.1),
    "`paper`": ("newton", 5, 0.01),
    "converged": ("eigh", 0, 0.001),
}
CROP = (slice(120, 248), slice(200, 392))
MODEL, LAYER = "deeplabv3_r18_small_camvid", "backbone.stem.0"


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Declare the command of the pictures."""
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("table", help="draw the pictures, and write the table of docs/explanation/whitening.md")


def obey(args: argparse.Namespace) -> None:
    """Draw the pictures, keep what was measured and write the table."""
    image_CHW = photograph()
    covariance_DD = window_covariance(image_CHW)
    matrices = {label: whitening_matrix(covariance_DD, *way) for label, way in WAYS.items()}
    spectra = {label: spectrum(covariance_DD, d_DD) for label, d_DD in matrices.items()}
    draw_photograph(image_CHW, matrices, FOLDER / "photograph.png")
    draw_spectra(spectra, FOLDER / "spectra.png")
    draw_filters(*first_filters(), FOLDER / "filters.png")
    found = {label: figures(values) for label, values in spectra.items()}
    RECORD.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")


def filled(text: str, found: dict[str, Any]) -> str:
    """Return the page with the table of the record in its marked part."""
    return re.sub(BLOCK, lambda mark: f"{mark[1]}{figures_table(found)}\n{mark[2]}", text, flags=re.DOTALL)


def photograph() -> Tensor:
    """Return scikit-learn's photograph of a temple, ``(3, H, W)``, without its mean and divided by its mean size."""
    from sklearn.datasets import load_sample_image

    image_CHW = torch.from_numpy(np.array(load_sample_image("china.jpg"))).permute(2, 0, 1).float()
    image_CHW -= image_CHW.mean(dim=(1, 2), keepdim=True)
    return image_CHW / image_CHW.abs().mean()


def window_covariance(image_CHW: Tensor) -> Tensor:
    """Return the covariance of all 5x5 windows, ``(75, 75)``."""
    rows_ND = nn.functional.unfold(image_CHW[None], KERNEL)[0].T.double()
    return torch.cov(rows_ND.T)


def whitening_matrix(covariance_DD: Tensor, solver: str, num_iters: int, eps: float) -> Tensor:
    """Return D as a layer would solve it."""
    from ndpp_dense.ops.inverse_sqrt import SOLVERS

    identity_DD = torch.eye(len(covariance_DD), dtype=covariance_DD.dtype)
    return SOLVERS[solver]((covariance_DD + eps * identity_DD)[None], num_iters)[0] if solver else identity_DD


def spectrum(covariance_DD: Tensor, d_DD: Tensor) -> list[float]:
    """Return the eigenvalues of the covariance of whitened windows, the largest first, over their mean."""
    values = torch.linalg.eigvalsh(d_DD @ covariance_DD @ d_DD.T).flip(0)
    return (values / values.mean()).tolist()


def figures(values: list[float]) -> dict[str, float]:
    """Return how far a spectrum is from flat."""
    return {
        "largest over smallest": values[0] / values[-1],
        "share of the largest": values[0] / sum(values),
        "directions with nine tenths of the variance": 1 + int(np.searchsorted(np.cumsum(values) / sum(values), 0.9)),
    }


def figures_table(found: dict[str, Any]) -> str:
    """Return the table of the figures of each spectrum."""
    names = list(next(iter(found.values())))
    rows = [
        (label, f"{own[names[0]]:,.0f}", f"{own[names[1]]:.0%}", str(own[names[2]])) for label, own in found.items()
    ]
    return table(("windows of 75 numbers", *names), rows)


def first_filters() -> tuple[Tensor, Tensor]:
    """Return the first filters of a trained segmentor: as they are kept, and as they act on the input."""
    from ndpp_dense import NDConv2d, WhiteningConfig, fold_ndpp, load_checkpoint

    weights = load_checkpoint(MODEL).weights
    own = {name.removeprefix(f"{LAYER}."): w.float() for name, w in weights.items() if name.startswith(f"{LAYER}.")}
    out_channels, in_channels, kernel, _ = own["weight"].shape
    layer = NDConv2d(in_channels, out_channels, kernel, stride=2, config=WhiteningConfig.fast("cityscapes"))
    layer.load_state_dict(own)
    return own["weight"], fold_ndpp(layer.eval()).weight.detach()


def draw_photograph(image_CHW: Tensor, matrices: dict[str, Tensor], path: Path) -> None:
    """Draw a part of the photograph, as it is and as the middle pixel of each whitened window."""
    figure = Figure(figsize=(10, 2 * len(matrices) - 2.4), layout="constrained")
    panels = figure.subplots(2, len(matrices) // 2, squeeze=False).ravel()
    for axes, (label, d_DD) in zip(panels, matrices.items(), strict=True):
        middle = [channel * KERNEL**2 + KERNEL**2 // 2 for channel in range(3)]
        filters = d_DD[middle].reshape(3, 3, KERNEL, KERNEL).float()
        white_CHW = nn.functional.conv2d(image_CHW[None], filters, padding=KERNEL // 2)[0]
        show(axes, white_CHW[:, CROP[0], CROP[1]], label.replace("`", ""))
    FigureCanvasAgg(figure).print_png(str(path))


def show(axes: Axes, picture_CHW: Tensor, title: str = "") -> None:
    """Draw a picture whose numbers have any range."""
    low, high = np.percentile(picture_CHW.numpy(), (1, 99))
    axes.imshow(np.clip((picture_CHW.permute(1, 2, 0).numpy() - low) / (high - low), 0, 1), interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=10, loc="left")


def draw_spectra(spectra: dict[str, list[float]], path: Path) -> None:
    """Draw the eigenvalues of all spectra into one plot."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for label, values in spectra.items():
        axes.semilogy(range(1, len(values) + 1), values, marker=".", label=label.replace("`", ""))
    axes.set(xlabel="direction", ylabel="variance over its mean")
    axes.grid(alpha=0.3)
    axes.legend()
    FigureCanvasAgg(figure).print_png(str(path))


def draw_filters(kept: Tensor, acting: Tensor, path: Path) -> None:
    """Draw two sets of filters, one row each."""
    count = min(16, len(kept))
    figure = Figure(figsize=(10, 1.9), layout="constrained")
    panels = figure.subplots(2, count)
    for row, filters, title in zip(panels, (kept, acting), ("weight", "weight x D"), strict=True):
        for number, axes in enumerate(row):
            show(axes, filters[number], title if number == 0 else "")
    FigureCanvasAgg(figure).print_png(str(path))
