"""The segmentation demo set: streets in Cityscapes' layout, generated on first use and kept on disk."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ndpp_dense.datasets.generated import default_root, folder_name, generate_once

__all__ = ["ensure_streets"]

_LOG = logging.getLogger(__name__)
_VERSION = 1  # raise with every change that alters a pixel
_MIN_HEIGHT = 32


@dataclass(frozen=True)
class _Recipe:
    """Everything that decides the bytes of the set."""

    num_train: int = 240
    num_val: int = 40
    height: int = 128
    seed: int = 0


def ensure_streets(
    root: str | os.PathLike[str] | None = None,
    *,
    num_train: int = _Recipe.num_train,
    num_val: int = _Recipe.num_val,
    height: int = _Recipe.height,
    seed: int = _Recipe.seed,
) -> Path:
    """Returns the folder of the demo set, generating it on the first call.

    Simple streets with eight of Cityscapes' classes (road, sidewalk, building, traffic sign, vegetation, sky, person,
    car), as `leftImg8bit/{train,val}/demo/*_leftImg8bit.png` (RGB) and
    `gtFine/{train,val}/demo/*_gtFine_labelTrainIds.png` (Cityscapes' training ids; 255 is ignored), so that anything
    that reads Cityscapes reads it. Safe when several processes call it at once.

    Args:
        root: folder to keep the set under; default `$NDPP_HOME/datasets`, else `~/.cache/ndpp_dense/datasets`.
        num_train: training images, >= 1.
        num_val: validation images, >= 1.
        height: of an image in pixels, >= 32; images are twice as wide as high.
        seed: >= 0; the same arguments give the same pixels.

    Returns:
        The folder that holds `leftImg8bit` and `gtFine`.

    Raises:
        ValueError: an argument is out of range; all faults are reported together.
        PermissionError: the folder cannot be written.
    """
    recipe = _Recipe(num_train, num_val, height, seed)
    _check(recipe)
    parent = Path(root).expanduser() if root is not None else default_root()
    final = parent.absolute() / folder_name("streets", _VERSION, asdict(recipe))
    if not final.is_dir():
        generate_once("streets", final, lambda folder: _generate(recipe, folder))
    return final


def _check(recipe: _Recipe) -> None:
    limits = {"num_train": 1, "num_val": 1, "height": _MIN_HEIGHT, "seed": 0}
    values: dict[str, Any] = asdict(recipe)
    faults = [
        f"{name}={values[name]!r} (need an int >= {least})"
        for name, least in limits.items()
        if not isinstance(values[name], int) or values[name] < least
    ]
    if faults:
        raise ValueError("streets data set: invalid " + "; ".join(faults) + ". Change these arguments.")


def _generate(recipe: _Recipe, folder: Path) -> None:
    import numpy as np
    from PIL import Image

    from ndpp_dense.datasets.streets_scene import draw_street

    total = recipe.num_train + recipe.num_val
    _LOG.info("Generating the streets data set: %d images %d pixels high", total, recipe.height)
    for number, (split, count) in enumerate((("train", recipe.num_train), ("val", recipe.num_val))):
        images, labels = (folder / kind / split / "demo" for kind in ("leftImg8bit", "gtFine"))
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for index in range(count):
            # One generator an image: the first images stay the same when more are asked for.
            street = draw_street(recipe.height, np.random.default_rng([recipe.seed, number, index]))
            name = f"demo_{index:06d}_000000"
            Image.fromarray(street.image).save(images / f"{name}_leftImg8bit.png", compress_level=1)
            Image.fromarray(street.labels).save(labels / f"{name}_gtFine_labelTrainIds.png")
