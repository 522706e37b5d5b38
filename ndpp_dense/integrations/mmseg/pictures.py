"""A sheet of predictions: image, truth and prediction of some validation images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ndpp_dense.atomic_file import replacing
from ndpp_dense.reports.drawing import literal
from ndpp_dense.reports.plots import figure_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

__all__ = ["Prediction", "draw_example", "overlay", "save_predictions"]

_SHARE = 0.6  # of the class colour in a pixel
_COLUMN = 3.2  # width of a picture in inches
_STEEPEST = 4.0  # height over width, or width over height, that a picture is drawn at
_LONGEST_LEGEND = 60  # classes


@dataclass(frozen=True)
class Prediction:
    """One image.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        truth: (H, W) class numbers; others than the classes are left uncoloured.
        predicted: Likewise.
    """

    image: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray

    @classmethod
    def of(cls, sample: Any) -> Prediction:
        """Reads the image of a ``SegDataSample``; without truth nothing of it is coloured."""
        from ndpp_dense.images.reading import read_image

        predicted = sample.pred_sem_seg.data.squeeze(0).cpu().numpy()
        known = "gt_sem_seg" in sample
        truth = sample.gt_sem_seg.data.squeeze(0).cpu().numpy() if known else np.full_like(predicted, 255)
        height, width = predicted.shape
        return cls(np.asarray(read_image(sample.img_path).resize((width, height))), truth, predicted)


def save_predictions(
    predictions: Sequence[Prediction],
    classes: Sequence[str],
    palette: Sequence[Sequence[int]],
    out_png: str | os.PathLike[str],
) -> None:
    """Draws a column an image: image, truth, prediction, and a legend below.

    Args:
        predictions: at least one.
        classes: names by class number.
        palette: RGB colours by class number, 0 to 255.
        out_png: picture to write; its folder is created if absent.

    Raises:
        ValueError: there is no prediction.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not predictions:
        raise ValueError("save_predictions got no prediction: evaluate at least one image first.")
    height, width = predictions[0].image.shape[:2]
    row = _COLUMN * min(max(height / width, 1 / _STEEPEST), _STEEPEST) + 0.25
    figure = Figure(figsize=(_COLUMN * len(predictions), 3 * row + 0.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(3, len(predictions), squeeze=False)
    for column, prediction in enumerate(predictions):
        pictures = (prediction.truth, prediction.predicted)
        rows[0, column].imshow(prediction.image)
        for axes, labels in zip(rows[1:, column], pictures, strict=True):
            axes.imshow(_coloured(prediction.image, labels, palette))
        for axes, name in zip(rows[:, column], ("image", "ground truth", "prediction"), strict=True):
            _bare(axes, name if column == 0 else "")
    seen = np.unique([n for p in predictions for labels in (p.truth, p.predicted) for n in np.unique(labels)])
    patches = _patches([number for number in seen if 0 <= number < len(classes)], classes, palette)
    figure.legend(
        handles=patches, loc="outside lower center", ncols=min(len(patches) or 1, 10), frameon=False, fontsize=8
    )
    with replacing(out_png) as path:
        figure.savefig(path)


def draw_example(prediction: Prediction, classes: Sequence[str], palette: Sequence[Sequence[int]]) -> bytes:
    """Draws truth and prediction of one image beside each other, with a legend; returns a JPEG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = prediction.image.shape[:2]
    row = _COLUMN * min(max(height / width, 1 / _STEEPEST), _STEEPEST)
    figure = Figure(figsize=(2 * _COLUMN, row + 0.7), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    pairs = (("ground truth", prediction.truth), ("prediction", prediction.predicted))
    for axes, (name, labels) in zip(figure.subplots(1, 2), pairs, strict=True):
        axes.imshow(_coloured(prediction.image, labels, palette))
        _bare(axes, name)
    seen = np.union1d(prediction.truth, prediction.predicted)
    patches = _patches([number for number in seen if 0 <= number < len(classes)], classes, palette)
    figure.legend(handles=patches, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    return figure_bytes(figure, "jpeg")


def overlay(
    image: np.ndarray, labels: np.ndarray, classes: Sequence[str], palette: Sequence[Sequence[int]]
) -> np.ndarray:
    """Colours an image by class, with a legend of the classes in it.

    Args:
        image: (H, W, 3) uint8, RGB.
        labels: (H, W) class numbers.
        classes: names by class number.
        palette: RGB colours by class number, 0 to 255.

    Returns:
        The picture, (H', W', 3) uint8, RGB.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = labels.shape
    inches = max(6.4, min(width / 100, 16.0))
    figure = Figure(figsize=(inches, inches * height / width + 0.7), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(_coloured(image, labels, palette))
    axes.set_axis_off()
    patches = _patches([number for number in np.unique(labels) if 0 <= number < len(classes)], classes, palette)
    figure.legend(handles=patches, loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _patches(numbers: Sequence[int], classes: Sequence[str], palette: Sequence[Sequence[int]]) -> list[Patch]:
    """Entries of a legend, no more than can be read."""
    from matplotlib.patches import Patch

    shown = numbers if len(numbers) <= _LONGEST_LEGEND else numbers[: _LONGEST_LEGEND - 1]
    patches = [Patch(color=_unit(palette[n]), label=literal(str(classes[n]))) for n in shown]
    more = len(numbers) - len(shown)
    return [*patches, Patch(color="none", label=f"and {more} more")] if more else patches


def _unit(colour: Sequence[int]) -> tuple[float, float, float]:
    red, green, blue = colour
    return red / 255, green / 255, blue / 255


def _coloured(image: np.ndarray, labels: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    colours = np.asarray(palette, float)
    known = labels < len(colours)
    shade = colours[np.where(known, labels, 0)] * _SHARE + image * (1 - _SHARE)
    return np.where(known[..., None], shade, image).astype(np.uint8)


def _bare(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=9)
    axes.set_axis_off()
