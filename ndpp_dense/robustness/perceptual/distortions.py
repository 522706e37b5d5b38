"""Distortions of an image in five steps of rising strength."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["KINDS", "LEVELS", "blur", "centre", "distort", "noise"]

# Strengths for references of 96 pixels a side: none is invisible, the last leaves the picture recognisable.
LEVELS: Mapping[str, tuple[float, ...]] = {
    "blur": (0.6, 1.0, 1.6, 2.4, 3.6),  # standard deviation, pixels
    "noise": (0.02, 0.04, 0.08, 0.14, 0.22),  # standard deviation, of a range of 1
    "jpeg": (60, 35, 20, 10, 5),  # quality
    "contrast": (0.85, 0.7, 0.55, 0.4, 0.25),  # share that is left
    "shift": (1, 2, 4, 6, 8),  # pixels
    "rotation": (1, 2, 4, 7, 10),  # degrees
    "scale": (1.02, 1.04, 1.08, 1.12, 1.18),  # magnification
}
KINDS = tuple(LEVELS)
_GEOMETRIC = ("shift", "rotation", "scale")


def distort(picture: Tensor, margin: int, kind: str, level: int, seed: int = 0, name: str = "") -> Tensor:
    """Makes a distorted view of a picture.

    Args:
        picture: ``(3, H, W)`` of [0, 1], larger than the reference by a margin on every side, so that what a shift, a
            rotation or a change of scale brings into view is real.
        margin: Pixels; the reference is ``centre(picture, margin)``.
        kind: One of ``KINDS``.
        level: 1 to 5.
        seed: Of noise, of the direction of shifts and of the sense of rotations, which are the same at all levels.
        name: Of the reference: every one has its own noise.

    Returns:
        ``(3, H - 2 margin, W - 2 margin)`` of [0, 1], in steps of 1/255.

    Raises:
        ValueError: Unknown kind or level, or a margin that the distortion would leave.
    """
    if kind not in LEVELS:
        raise ValueError(f"Unknown distortion {kind!r}: choose from {', '.join(KINDS)}.")
    if not 1 <= level <= len(LEVELS[kind]):
        raise ValueError(f"Level {level} of {kind!r}: it must be 1 to {len(LEVELS[kind])}.")
    strength = LEVELS[kind][level - 1]
    generator = torch.Generator().manual_seed(_seed(seed, name, kind))
    if kind in _GEOMETRIC:
        return _bytes(_moved(picture, margin, kind, strength, generator))
    reference = centre(picture, margin)
    make: Callable[[], Tensor] = {
        "blur": lambda: blur(reference, strength),
        "noise": lambda: reference + strength * noise(reference, generator),
        "jpeg": lambda: _jpeg(reference, int(strength)),
        "contrast": lambda: reference.mean() + strength * (reference - reference.mean()),
    }[kind]
    return _bytes(make())


def centre(picture: Tensor, margin: int, right: int = 0, down: int = 0) -> Tensor:
    """The part of ``(..., H, W)`` within a margin, moved by pixels to the right and down."""
    height, width = picture.shape[-2:]
    if max(abs(right), abs(down)) > margin or 2 * margin >= min(height, width):
        raise ValueError(
            f"A shift of {right}, {down} pixels in a picture of {height} x {width} with a margin of {margin}: "
            "shifts must not exceed the margin, which must be less than half of the picture."
        )
    return picture[..., margin + down : height - margin + down, margin + right : width - margin + right]


def blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of ``(3, H, W)``, ``sigma`` in pixels, borders mirrored."""
    reach = min(math.ceil(3.5 * sigma), min(image.shape[1:]) - 1)
    kernel = torch.exp(-torch.arange(-reach, reach + 1.0).square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(image).expand(3, 1, 1, -1)
    padded = F.pad(image[None], [reach] * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.transpose(2, 3), groups=3)[0]


def noise(image: Tensor, generator: torch.Generator) -> Tensor:
    """Independent normal values of the shape of an image."""
    return torch.randn(image.shape, generator=generator)


def _seed(seed: int, name: str, kind: str) -> int:
    words = [seed, zlib.crc32(name.encode()), zlib.crc32(kind.encode())]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


def _moved(picture: Tensor, margin: int, kind: str, strength: float, generator: torch.Generator) -> Tensor:
    choice = int(torch.randint(4, (), generator=generator))
    if kind == "shift":
        right, down = ((1, 0), (-1, 0), (0, 1), (0, -1))[choice]
        return centre(picture, margin, right * int(strength), down * int(strength))
    if kind == "rotation":
        angle = math.radians(strength) * (1 if choice % 2 else -1)
        matrix = ((math.cos(angle), -math.sin(angle)), (math.sin(angle), math.cos(angle)))
    else:
        matrix = ((1 / strength, 0.0), (0.0, 1 / strength))
    return _sampled(picture, margin, matrix)


def _sampled(picture: Tensor, margin: int, matrix: tuple[tuple[float, float], tuple[float, float]]) -> Tensor:
    """The centre as seen through a linear map of output to input coordinates, in pixels from the middle."""
    height, width = picture.shape[1:]
    rows, columns = height - 2 * margin, width - 2 * margin
    y, x = torch.meshgrid(torch.arange(rows) - (rows - 1) / 2, torch.arange(columns) - (columns - 1) / 2, indexing="ij")
    (a, b), (c, d) = matrix
    u, v = a * x + b * y, c * x + d * y
    if float(u.abs().max()) > (width - 1) / 2 or float(v.abs().max()) > (height - 1) / 2:
        raise ValueError(
            f"A margin of {margin} pixels around {rows} x {columns} is too small for this distortion: take a wider one."
        )
    grid = torch.stack([2 * u / (width - 1), 2 * v / (height - 1)], dim=-1)[None].to(picture)
    return F.grid_sample(picture[None], grid, mode="bicubic", padding_mode="border", align_corners=True)[0]


def _jpeg(image: Tensor, quality: int) -> Tensor:
    from PIL import Image

    pixels = (image.permute(1, 2, 0) * 255).round().clamp(0, 255).byte().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    with Image.open(file) as read:
        return torch.from_numpy(np.array(read.convert("RGB"))).permute(2, 0, 1).to(image) / 255


def _bytes(image: Tensor) -> Tensor:
    """As a file holds it."""
    return (image * 255).round().clamp(0, 255) / 255
