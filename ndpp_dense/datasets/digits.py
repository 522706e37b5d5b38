"""The demo data set: handwritten digits painted on noise, generated on first use and kept on disk."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndpp_dense.datasets.generated import default_root, folder_name, generate_once

if TYPE_CHECKING:
    import numpy as np

    from ndpp_dense.datasets.digits_scene import Glyph, Scene

__all__ = ["DEFAULT_CATEGORIES", "DigitsPaths", "ensure_digits", "locate_digits"]

_LOG = logging.getLogger(__name__)
_VERSION = 3  # raise with every change that alters a pixel or an annotation
_MIN_SIZE = 64  # below it the smallest digits are under 13 pixels
DEFAULT_CATEGORIES = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class DigitsPaths:
    """Where the demo set lies.

    Attributes:
        root: the folder that holds everything below.
        train_json: COCO instance annotations of the training images (RLE masks).
        train_images: folder of the training images (PNG, RGB).
        val_json: the same for validation.
        val_images: the same for validation.
    """

    root: Path
    train_json: Path
    train_images: Path
    val_json: Path
    val_images: Path


@dataclass(frozen=True)
class _Recipe:
    """Everything that decides the bytes of the set."""

    num_train: int = 400
    num_val: int = 100
    size: int = 160
    seed: int = 0
    categories: tuple[int, ...] = DEFAULT_CATEGORIES


def ensure_digits(
    root: str | os.PathLike[str] | None = None,
    *,
    num_train: int = _Recipe.num_train,
    num_val: int = _Recipe.num_val,
    size: int = _Recipe.size,
    seed: int = _Recipe.seed,
    categories: Sequence[int] = DEFAULT_CATEGORIES,
) -> DigitsPaths:
    """Returns the demo set, generating it on the first call.

    A COCO-format instance-segmentation set: real handwritten digits (scikit-learn's bundled `load_digits`; no
    download), enlarged, textured and partly covering each other, 1 to 6 an image. Training and validation use
    different handwriting samples. Masks are RLE, so a Detectron2 config needs `INPUT.MASK_FORMAT: bitmask`.

    Safe when several processes call it at once: one generates, the others wait for it.

    Args:
        root: folder to keep the set under; default `$NDPP_HOME/datasets`, else `~/.cache/ndpp_dense/datasets`.
        num_train: training images, >= 1.
        num_val: validation images, >= 1.
        size: height and width of an image in pixels, >= 64; digits are 1/5 to 1/2 of it high.
        seed: >= 0; the same arguments give the same images and annotations.
        categories: digits to use, distinct, each in 0..9; digit d gets category id d + 1 and name "d".

    Returns:
        Paths of the annotations and the image folders.

    Raises:
        ValueError: an argument is out of range; all faults are reported together.
        PermissionError: the folder cannot be written.
    """
    recipe = _Recipe(num_train, num_val, size, seed, tuple(categories))
    _check(recipe)
    paths = _locate(recipe, root)
    if not paths.root.is_dir():
        generate_once("digits", paths.root, lambda folder: _generate(recipe, folder))
    return paths


def locate_digits(root: str | os.PathLike[str] | None = None) -> DigitsPaths:
    """Tells where `ensure_digits(root)` with its default arguments keeps the set, without generating it.

    Args:
        root: see `ensure_digits`.

    Returns:
        The paths, which may not exist yet.
    """
    return _locate(_Recipe(), root)


def _locate(recipe: _Recipe, root: str | os.PathLike[str] | None) -> DigitsPaths:
    parent = Path(root).expanduser() if root is not None else default_root()
    final = parent.absolute() / folder_name("digits", _VERSION, asdict(recipe))
    return DigitsPaths(final, final / "train.json", final / "train", final / "val.json", final / "val")


def _check(recipe: _Recipe) -> None:
    faults = [
        f"{name}={getattr(recipe, name)!r} (need an int >= {least})"
        for name, least in (("num_train", 1), ("num_val", 1), ("size", _MIN_SIZE), ("seed", 0))
        if not isinstance(getattr(recipe, name), int) or getattr(recipe, name) < least
    ]
    digits = recipe.categories
    if not digits or len(set(digits)) != len(digits) or not set(digits) <= set(range(10)):
        faults.append(f"categories={digits!r} (need distinct digits in 0..9, at least one)")
    if faults:
        raise ValueError("digits data set: invalid " + "; ".join(faults) + ". Change these arguments.")


def _generate(recipe: _Recipe, folder: Path) -> None:
    from tqdm import tqdm

    from ndpp_dense.datasets.digits_scene import load_glyphs

    total = recipe.num_train + recipe.num_val
    _LOG.info("Generating the digits data set: %d images of %d x %d pixels", total, recipe.size, recipe.size)
    train, val = load_glyphs(recipe.categories, recipe.seed)
    with tqdm(total=total, desc="Generating the digits data set", unit="image", mininterval=0.5) as bar:
        _write_split(folder, "train", train, recipe.num_train, recipe, bar)
        _write_split(folder, "val", val, recipe.num_val, recipe, bar)


def _write_split(folder: Path, split: str, glyphs: list[Glyph], count: int, recipe: _Recipe, bar: Any) -> None:
    import numpy as np
    from PIL import Image

    from ndpp_dense.datasets.digits_scene import draw_scene

    (folder / split).mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        # One generator an image: the first images stay the same when more are asked for.
        rng = np.random.default_rng([recipe.seed, ("train", "val").index(split), index])
        scene = draw_scene(glyphs, recipe.size, rng)
        file_name = f"{index:06d}.png"
        Image.fromarray(scene.image).save(folder / split / file_name, compress_level=1)
        images.append({"id": index + 1, "file_name": file_name, "height": recipe.size, "width": recipe.size})
        annotations += _annotate(scene, index + 1, len(annotations) + 1)
        bar.update()
    categories = [{"id": digit + 1, "name": str(digit), "supercategory": "digit"} for digit in recipe.categories]
    info = {"description": "ndpp_dense digits demo (generated)", "version": str(_VERSION), "recipe": asdict(recipe)}
    document = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    (folder / f"{split}.json").write_text(json.dumps(document), encoding="utf-8")


def _annotate(scene: Scene, image_id: int, first_id: int) -> list[dict[str, Any]]:
    return [
        {"id": first_id + offset, "image_id": image_id, "category_id": digit + 1, "iscrowd": 0, **_describe(mask)}
        for offset, (digit, mask) in enumerate(zip(scene.digits, scene.masks, strict=True))
    ]


def _describe(mask: np.ndarray) -> dict[str, Any]:
    """COCO's RLE, area and XYWH box of a non-empty (H, W) mask."""
    import numpy as np
    from pycocotools import mask as coco_mask

    rle: Any = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    return {
        "segmentation": {"size": [int(side) for side in mask.shape], "counts": rle["counts"].decode("ascii")},
        "area": int(mask.sum()),
        "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
    }
