"""ND++ weights from those of a classifier with batch norms and a folder of images."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.transforms_factory import create_transform
from torch import Tensor

from ndpp_dense.calibration.calibrate import calibrate_ndpp
from ndpp_dense.conversion.report import ConversionReport
from ndpp_dense.images import SUFFIXES, find_images, read_image
from ndpp_dense.images.reading import check_thickness
from ndpp_dense.layers.config import WhiteningConfig
from ndpp_dense.weights.match import build_model, num_classes, whitened_layers

__all__ = ["calibrated", "image_batches"]

_log = logging.getLogger(__name__)


def calibrated(
    name: str,
    entries: Mapping[str, Tensor],
    config: WhiteningConfig,
    batches: list[Tensor],
    rules: Mapping[Any, Any] | None = None,
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Makes the weights of an ND++ backbone that computes what one with batch norms did.

    Args:
        name: See :func:`ndpp_dense.weights.match.build_model`.
        entries: All its weights, except the counts of batches, which may be missing.
        config: How to whiten.
        batches: Images ``(N, 3, H, W)`` as for evaluation.
        rules: Exceptions, as :func:`ndpp_dense.calibrate_ndpp` takes them.

    Returns:
        The ND++ weights by name, and the report of the conversion.

    Raises:
        ValueError: The weights are ND++ already, do not fit, the data are too few, or a rule matches nothing.
    """
    whitened = whitened_layers(entries)
    if whitened:
        raise ValueError(
            f"calibration starts from batch norms, and {len(whitened)} layers are ND++ already: {min(whitened)}, ..."
        )
    model = build_model(name, num_classes(entries))
    counters = {key: value for key, value in model.state_dict().items() if key.endswith(".num_batches_tracked")}
    try:
        model.load_state_dict({**counters, **entries})
    except RuntimeError as error:
        raise ValueError(f"the weights do not fit {name}: {' '.join(str(error).split())[:500]}") from error
    report = calibrate_ndpp(model.eval(), batches, config, rules, len(batches))
    return model.state_dict(), report


def image_batches(folder: str | Path, size: int = 224, batch_size: int = 32, count: int = 20) -> Iterator[Tensor]:
    """Draws images of a folder as ImageNet's evaluation has them: resized, centre crop, normalised.

    Args:
        folder: Holds images at any depth. The same ones are drawn every time.
        size: Pixels a side of the crop, >= 1.
        batch_size: Images of a batch, >= 1.
        count: Batches, >= 1; fewer where there are fewer images, the last of which may be smaller.

    Yields:
        Batches ``(N, 3, size, size)``.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
        ValueError: A number is not positive, or an image cannot be read; names it.
    """
    faults = [f"{name} = {value}" for name, value in (("size", size), ("batch_size", batch_size), ("count", count))]
    if min(size, batch_size, count) < 1:
        raise ValueError(f"calibration images: {', '.join(faults)} must all be >= 1.")
    files = _images_in(Path(folder))
    chosen = random.Random(0).sample(files, min(len(files), batch_size * count))
    transform: Any = create_transform(
        (3, size, size), is_training=False, mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD
    )
    for start in range(0, len(chosen), batch_size):
        yield torch.stack([transform(_read(file)) for file in chosen[start : start + batch_size]])


def _read(file: Path) -> Any:
    image = read_image(file)
    check_thickness(image, str(file))
    return image


def _images_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"calibration images: there is no folder {folder}.")
    found = find_images(folder)
    left_out = f" Left out are {found.left_out}." if found.left_out else ""
    if not found.files:
        raise FileNotFoundError(f"calibration images: {folder} holds no {', '.join(SUFFIXES)} at any depth.{left_out}")
    if left_out:
        _log.warning("calibration images: %d in %s.%s", len(found.files), folder, left_out)
    return list(found.files)
