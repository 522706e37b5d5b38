"""A contact sheet of validation images: ground truth above, predictions below."""

from __future__ import annotations

import colorsys
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ndpp_dense.atomic_file import replacing
from ndpp_dense.reports.drawing import literal
from ndpp_dense.reports.plots import figure_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Instance", "draw_example", "predicted_instances", "save_predictions", "true_instances"]

_COLUMNS = 4
_CELL_INCHES, _DPI = 3.0, 130
_LONG_SIDE = 480  # pixels that a picture is drawn at, so that outlines look alike on small and large images
_TALLEST = 1.35  # height over width that a cell grows to
_MAX_LABELS = 12  # more of them hide the picture
_LABEL_HEIGHT = 26  # pixels of the drawn picture
_MASK_ALPHA = 0.5
_SATURATION = 0.25  # of the image's colours, so that coloured masks are seen on coloured objects
_FIRST_COLOURS = (
    "#e6194b",
    "#3cb44b",
    "#4363d8",
    "#f58231",
    "#911eb4",
    "#00b5c4",
    "#f032e6",
    "#b8a000",
    "#9a6324",
    "#008080",
)


@dataclass(frozen=True)
class Instance:
    """One object to draw, in pixels of the image file."""

    category: int  # position in thing_classes
    box: Sequence[float]  # XYXY
    segmentation: Any  # RLE, polygons, or None
    score: float | None  # None for ground truth


def save_predictions(
    predictions: Iterable[Mapping[str, Any]],
    dataset_dicts: Sequence[Mapping[str, Any]],
    metadata: Any,
    out_png: str | os.PathLike[str],
    *,
    max_images: int = 8,
    score_threshold: float = 0.5,
) -> None:
    """Draws ground truth and predictions of some images, spread evenly over the set, one above the other.

    Args:
        predictions: COCO results, as in the `coco_instances_results.json` that `COCOEvaluator` writes: `image_id`,
            `category_id` (of the annotation file), `bbox` (XYWH, pixels), `score` (0 to 1), and `segmentation` where
            there are masks.
        dataset_dicts: the set in Detectron2's format, e.g. `DatasetCatalog.get(name)`.
        metadata: its metadata, e.g. `MetadataCatalog.get(name)`; `thing_classes` names the categories and
            `thing_dataset_id_to_contiguous_id` maps the ids, where present.
        out_png: picture to write; its folder is created if absent.
        max_images: how many images to show, >= 1.
        score_threshold: predictions below it are left out, 0 to 1.

    Raises:
        ValueError: there are no images, or a number is out of range.
        OSError: an image cannot be read.
    """
    _check(dataset_dicts, max_images, score_threshold)
    chosen = _spread(dataset_dicts, max_images)
    found = predicted_instances(predictions, metadata, score_threshold)
    names = [str(name) for name in getattr(metadata, "thing_classes", [])]
    figure = _sheet(chosen, found, names, f"predicted, score ≥ {score_threshold:g}")
    with replacing(out_png) as path:
        figure.savefig(path)


def _sheet(
    chosen: Sequence[Mapping[str, Any]], found: Mapping[Any, list[Instance]], names: list[str], title: str
) -> Figure:
    # matplotlib's object interface: pyplot keeps global state, and picks a backend by what it finds.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    images = [_read(record["file_name"]) for record in chosen]
    columns = min(_COLUMNS, len(chosen))
    heights = _row_heights(images, columns)
    figure = Figure(figsize=(columns * _CELL_INCHES + 0.3, sum(heights)), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    for axes in grid.flat:
        axes.set_axis_off()
    for index, (record, image) in enumerate(zip(chosen, images, strict=True)):
        row, column = 2 * (index // columns), index % columns
        _draw(grid[row, column], image, record, true_instances(record), names)
        _draw(grid[row + 1, column], image, record, found.get(record["image_id"], []), names)
        if column == 0:
            _title_row(grid[row, 0], "ground truth")
            _title_row(grid[row + 1, 0], title)
    return figure


def draw_example(record: Mapping[str, Any], found: list[Instance], names: Sequence[str]) -> bytes:
    """Draws ground truth and predictions of one image beside each other; returns a JPEG file.

    Args:
        record: The image in Detectron2's format.
        found: Its predictions.
        names: Of the categories.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    image = _read(record["file_name"])
    height = _CELL_INCHES * min(max(image.shape[0] / image.shape[1], 1 / _TALLEST), _TALLEST) + 0.3
    figure = Figure(figsize=(2 * _CELL_INCHES, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    pairs = (("ground truth", true_instances(record)), ("predicted", found))
    for axes, (title, instances) in zip(figure.subplots(1, 2), pairs, strict=True):
        axes.set_axis_off()
        axes.set_title(title, loc="left", fontsize=9)
        _draw(axes, image, record, instances, list(names))
    return figure_bytes(figure, "jpeg")


def _check(dataset_dicts: Sequence[Mapping[str, Any]], max_images: int, score_threshold: float) -> None:
    if not dataset_dicts:
        raise ValueError(
            "save_predictions: dataset_dicts is empty. Give the validation set, e.g. DatasetCatalog.get(name)."
        )
    if max_images < 1 or not 0.0 <= score_threshold <= 1.0:
        raise ValueError(
            "save_predictions: need max_images >= 1 and 0 <= score_threshold <= 1, "
            f"got {max_images} and {score_threshold}."
        )


def _spread(records: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    positions = np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int)
    return [records[i] for i in positions]


def _row_heights(images: Sequence[np.ndarray], columns: int) -> list[float]:
    """Inches for each row of the sheet: what its tallest image needs, twice, since two rows show the same images."""
    heights: list[float] = []
    for start in range(0, len(images), columns):
        tallest = max(image.shape[0] / image.shape[1] for image in images[start : start + columns])
        heights += [_CELL_INCHES * min(tallest, _TALLEST)] * 2
    return heights


def predicted_instances(
    predictions: Iterable[Mapping[str, Any]], metadata: Any, threshold: float
) -> dict[Any, list[Instance]]:
    """The predictions of each image, those with a score of at least the threshold; see :func:`save_predictions`."""
    contiguous = getattr(metadata, "thing_dataset_id_to_contiguous_id", {})
    found: dict[Any, list[Instance]] = defaultdict(list)
    for entry in predictions:
        if entry["score"] >= threshold:
            x, y, width, height = entry["bbox"]
            category = contiguous.get(entry["category_id"], entry["category_id"])
            box = (x, y, x + width, y + height)
            found[entry["image_id"]].append(Instance(category, box, entry.get("segmentation"), entry["score"]))
    return found


def true_instances(record: Mapping[str, Any]) -> list[Instance]:
    """The objects of an image, crowds left out."""
    from detectron2.structures import BoxMode

    return [
        Instance(
            entry["category_id"],
            [float(side) for side in BoxMode.convert(list(entry["bbox"]), entry["bbox_mode"], BoxMode.XYXY_ABS)],
            entry.get("segmentation"),
            None,
        )
        for entry in record.get("annotations", [])
        if not entry.get("iscrowd")
    ]


def _draw(
    axes: Axes, image: np.ndarray, record: Mapping[str, Any], instances: list[Instance], names: list[str]
) -> None:
    from matplotlib.patches import Rectangle

    # The largest first, so that what lies on top of it stays in sight.
    ordered = sorted(instances, key=lambda i: (i.box[0] - i.box[2]) * (i.box[3] - i.box[1]))
    crowded, one_category = len(ordered) > _MAX_LABELS, len(names) < 2
    colours = [_colour(index if one_category else i.category) for index, i in enumerate(ordered)]
    for instance, colour in zip(ordered, colours, strict=True):
        if instance.segmentation:
            image = _blend(image, _mask(instance.segmentation, record, image), colour)
    axes.imshow(image)
    scale = image.shape[1] / record["width"]
    for instance, colour in zip(ordered, colours, strict=True):
        left, top, right, bottom = (edge * scale - 0.5 for edge in instance.box)
        line = 0.6 if crowded else 1.2
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=line))
        if not crowded:
            # Near the right border the text ends with the box instead of starting with it, to stay in the picture.
            on_right = left > 0.6 * image.shape[1]
            text = _text(instance, "" if one_category else _name(instance, names))
            x, side = (min(right, image.shape[1]), "right") if on_right else (left, "left")
            _label(axes, text, x, top, side, colour)


def _title_row(axes: Axes, text: str) -> None:
    axes.text(-0.03, 0.5, text, transform=axes.transAxes, rotation=90, ha="right", va="center", fontsize=10)


def _read(file_name: str) -> np.ndarray:
    """Returns the image, (H, W, 3) float in 0..1 with the long side `_LONG_SIDE`, faded so that masks stand out."""
    from PIL import Image

    from ndpp_dense.integrations.detectron2.mapper import read_pixels

    image = Image.fromarray(read_pixels(file_name, "RGB"))
    scale = _LONG_SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC), dtype=np.float32) / 255.0
    return pixels.mean(-1, keepdims=True) * (1.0 - _SATURATION) + pixels * _SATURATION


def _mask(segmentation: Any, record: Mapping[str, Any], image: np.ndarray) -> np.ndarray:
    """Decodes RLE or polygons to a (H, W) bool mask of the size that the image is drawn at."""
    from PIL import Image
    from pycocotools import mask as coco_mask

    rle = segmentation
    if isinstance(rle, list):
        rle = coco_mask.merge(coco_mask.frPyObjects(rle, record["height"], record["width"]))
    elif isinstance(rle["counts"], list):
        rle = coco_mask.frPyObjects(rle, *rle["size"])
    decoded = Image.fromarray(np.asarray(coco_mask.decode(rle)) * np.uint8(255))
    return np.asarray(decoded.resize((image.shape[1], image.shape[0]), Image.Resampling.BILINEAR)) > 127


def _blend(image: np.ndarray, mask: np.ndarray, colour: tuple[float, float, float]) -> np.ndarray:
    inner = mask.copy()
    for axis in (0, 1):
        for shift in (-1, 1):
            inner &= np.roll(mask, shift, axis)
    alpha = np.where(inner, _MASK_ALPHA, 1.0) * mask
    return image * (1.0 - alpha[..., None]) + np.array(colour, np.float32) * alpha[..., None]


def _colour(index: int) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    if index < len(_FIRST_COLOURS):
        return to_rgb(_FIRST_COLOURS[index])
    # Steps of the golden ratio keep any number of hues apart.
    return colorsys.hsv_to_rgb((index * 0.618034) % 1.0, 0.55 + 0.45 * (index % 2), 0.95 - 0.25 * (index % 3) / 2)


def _name(instance: Instance, names: list[str]) -> str:
    return literal(names[instance.category]) if 0 <= instance.category < len(names) else str(instance.category)


def _text(instance: Instance, name: str) -> str:
    return name if instance.score is None else f"{name} {instance.score:.2f}".strip()


def _label(axes: Axes, text: str, x: float, top: float, side: str, colour: tuple[float, float, float]) -> None:
    if not text:
        return
    dark = np.dot(colour, (0.299, 0.587, 0.114)) < 0.6
    axes.text(
        x,
        max(top, 0.0),
        text,
        ha=side,
        va="bottom" if top > _LABEL_HEIGHT else "top",
        fontsize=8,
        color="white" if dark else "black",
        bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.0, "alpha": 0.85},
    )
