"""Pictures that a network which was never trained takes its statistics from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ndpp_dense.datasets.streets_scene import draw_street
from ndpp_dense.images import find_images, read_image
from ndpp_dense.layers.model_statistics import update_stats
from ndpp_dense.training.rng import isolated_rng

__all__ = ["take_statistics"]

_BATCHES, _BATCH, _SIDE = 2, 8, 224


def take_statistics(network: nn.Module, folder: str | None) -> str:
    """Runs a classifier on pictures and stores the statistics of its ND++ layers.

    Args:
        network: Takes ``(N, 3, 224, 224)``.
        folder: Of images, the first of which are taken; None draws streets.

    Returns:
        What they were taken from, in words.

    Raises:
        ValueError: The folder has no images, or one cannot be read.
    """
    if folder is not None and not Path(folder).is_dir():
        raise ValueError(f"--images {folder}: there is no such folder. Name one with pictures.")
    files = find_images(folder).files[: _BATCHES * _BATCH] if folder else ()
    if folder and not files:
        raise ValueError(f"--images {folder}: there are no images below it.")
    pictures = [read_image(file) for file in files] if files else list(_streets())
    rows = torch.stack([_prepared(picture) for picture in pictures])
    with isolated_rng(0):
        update_stats(network, rows.split(_BATCH), num_batches=_BATCHES)
    return (
        f"statistics of {len(rows)} pictures of {folder}" if folder else f"statistics of {len(rows)} generated streets"
    )


def _streets() -> Iterator[Image.Image]:
    rng = np.random.default_rng(0)
    for _ in range(_BATCHES * _BATCH):
        yield Image.fromarray(draw_street(_SIDE, rng).image)


def _prepared(picture: Image.Image) -> Tensor:
    """The middle of a picture, ``(3, 224, 224)``, with the mean and size that classifiers expect."""
    scale = _SIDE / min(picture.size)
    width, height = (max(_SIDE, round(side * scale)) for side in picture.size)
    left, top = (width - _SIDE) // 2, (height - _SIDE) // 2
    cut = picture.resize((width, height)).crop((left, top, left + _SIDE, top + _SIDE))
    pixels = torch.from_numpy(np.array(cut)).permute(2, 0, 1).float() / 255
    return (pixels - 0.45) / 0.226
