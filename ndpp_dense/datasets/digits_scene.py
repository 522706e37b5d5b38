"""Draws one scene of the digits demo: textured handwritten digits, as chalk on stone, on a 1/f-noise background.

Shapes: H = W = image size in pixels; images are float32 in 0..1 (H, W, 3), masks bool (H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["MAX_INSTANCES", "Glyph", "Scene", "draw_scene", "load_glyphs"]

MAX_INSTANCES = 6
_MIN_HEIGHT, _MAX_HEIGHT = 0.2, 0.5  # of the image size: 32 to 80 pixels at 160
_MAX_ANGLE, _MAX_SHEAR = 0.26, 0.2  # radians (15 degrees), horizontal shift per unit of height
_INK_LEVEL = 0.4  # where the upscaled ink (0..1) counts as digit
_MIN_VISIBLE = 0.7  # of a digit's own area that must stay in sight
_MIN_CONTRAST, _MAX_CONTRAST = 0.22, 0.5  # how much brighter a digit is than what it covers
_PLACEMENT_TRIES = 20


@dataclass(frozen=True)
class Glyph:
    """One handwritten digit.

    Attributes:
        digit: 0 to 9.
        ink: (8, 8) float32 in 0..1.
    """

    digit: int
    ink: np.ndarray


@dataclass(frozen=True)
class Scene:
    """One finished picture.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        digits: the digit of each instance, back to front.
        masks: the visible part of each instance, (H, W) bool, disjoint.
    """

    image: np.ndarray
    digits: list[int]
    masks: list[np.ndarray]


def load_glyphs(categories: Sequence[int], seed: int, val_share: float = 0.25) -> tuple[list[Glyph], list[Glyph]]:
    """Splits scikit-learn's bundled 1,797 handwritten digits into disjoint samples, digit by digit.

    Args:
        categories: the digits wanted, each in 0..9.
        seed: decides which sample falls on which side.
        val_share: share of every digit's samples for validation, in 0..1.

    Returns:
        The training glyphs and the validation glyphs.
    """
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    inks, labels = bunch.images, bunch.target
    train: list[Glyph] = []
    val: list[Glyph] = []
    for digit in categories:
        order = np.random.default_rng([seed, digit]).permutation(np.flatnonzero(labels == digit))
        glyphs = [Glyph(digit, (inks[i] / 16.0).astype(np.float32)) for i in order]
        cut = round(len(glyphs) * val_share)
        val += glyphs[:cut]
        train += glyphs[cut:]
    return train, val


def draw_scene(glyphs: Sequence[Glyph], size: int, rng: np.random.Generator) -> Scene:
    """Draws 1 to 6 digits, later ones over earlier ones.

    Args:
        glyphs: the samples to choose from; digits are drawn evenly, then a sample of that digit.
        size: height and width in pixels.
        rng: source of every random choice.

    Returns:
        The picture and, for each digit that found a place, its visible mask.
    """
    image = _background(size, rng)
    by_digit: dict[int, list[Glyph]] = {}
    for glyph in glyphs:
        by_digit.setdefault(glyph.digit, []).append(glyph)
    choices = sorted(by_digit)
    digits: list[int] = []
    full: list[int] = []
    masks: list[np.ndarray] = []
    for _ in range(rng.integers(1, MAX_INSTANCES + 1)):
        candidates = by_digit[choices[rng.integers(len(choices))]]
        glyph = candidates[rng.integers(len(candidates))]
        ink = _place(glyph, masks, full, size, rng)
        if ink is None:
            continue
        mask = ink > _INK_LEVEL
        masks = [m & ~mask for m in masks] + [mask]
        digits.append(glyph.digit)
        full.append(int(mask.sum()))
        image = _paint(image, ink, mask, rng)
    return Scene(_expose(image, rng), digits, masks)


def _place(
    glyph: Glyph, masks: list[np.ndarray], full: list[int], size: int, rng: np.random.Generator
) -> np.ndarray | None:
    """Returns the digit's ink (H, W) at a place that leaves every digit recognisable, or None if none was found."""
    height = size * np.exp(rng.uniform(np.log(_MIN_HEIGHT), np.log(_MAX_HEIGHT)))
    small, threshold = _warp(glyph.ink, height, rng), _INK_LEVEL
    rows, columns = np.flatnonzero((small > threshold).any(1)), np.flatnonzero((small > threshold).any(0))
    small = small[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    for _ in range(_PLACEMENT_TRIES):
        top = int(rng.integers(0, size - small.shape[0] + 1))
        left = int(rng.integers(0, size - small.shape[1] + 1))
        ink = np.zeros((size, size), np.float32)
        ink[top : top + small.shape[0], left : left + small.shape[1]] = small
        hidden = ink > threshold
        if all((m & ~hidden).sum() >= _MIN_VISIBLE * area for m, area in zip(masks, full, strict=True)):
            return ink
    return None


def _warp(ink: np.ndarray, height: float, rng: np.random.Generator) -> np.ndarray:
    """Upscales (8, 8) ink smoothly to about `height` pixels, rotated and sheared, with room around it."""
    angle, shear = rng.uniform(-_MAX_ANGLE, _MAX_ANGLE), rng.uniform(-_MAX_SHEAR, _MAX_SHEAR)
    side = int(np.ceil(height * 1.5))
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    matrix = rotation @ np.array([[1.0, shear], [0.0, 1.0]])
    # Two steps: bicubic to 64 pixels gives round strokes; warping 8 x 8 pixels at once leaves staircases.
    padded = np.pad(ink, 4)
    fine = Image.fromarray(padded).resize((128, 128), Image.Resampling.BICUBIC)
    matrix = matrix * (64.0 / height)
    offset = 64.0 - matrix @ np.array([side / 2, side / 2])
    coefficients = (matrix[0, 0], matrix[0, 1], offset[0], matrix[1, 0], matrix[1, 1], offset[1])
    return np.asarray(fine.transform((side, side), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR))


@lru_cache(maxsize=16)
def _radius(size: int) -> np.ndarray:
    """Spatial frequency of every bin of a real 2-D Fourier transform, in cycles per image, at least 1."""
    rows, columns = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    return np.maximum(np.hypot(rows, columns) * size, 1.0)


def _noise(size: int, exponent: float, channels: int, rng: np.random.Generator) -> np.ndarray:
    """Noise with amplitude 1/f**exponent: (size, size, channels), mean 0, standard deviation 1 per channel."""
    white = np.fft.rfft2(rng.standard_normal((channels, size, size)))
    field = np.fft.irfft2(white / _radius(size) ** exponent, s=(size, size))
    field -= field.mean((1, 2), keepdims=True)
    field /= field.std((1, 2), keepdims=True) + 1e-9
    return field.transpose(1, 2, 0).astype(np.float32)


def _background(size: int, rng: np.random.Generator) -> np.ndarray:
    """A cloudy surface of random colour, contrast and roughness."""
    exponent = rng.uniform(1.0, 1.6)
    grey, tint = _noise(size, exponent, 1, rng), _noise(size, exponent + 0.3, 3, rng)
    colour = rng.uniform(0.1, 0.5) + rng.uniform(-0.1, 0.1, 3)
    contrast = rng.uniform(0.03, 0.16)
    return (colour + contrast * (grey + 0.4 * tint)).astype(np.float32)


def _paint(image: np.ndarray, ink: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lays a textured digit over the image with softened edges."""
    behind = image[mask].mean(0)
    colour = behind + rng.uniform(_MIN_CONTRAST, _MAX_CONTRAST) + rng.uniform(-0.12, 0.12, 3)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    height, width = ink[window].shape
    # Sides in steps of 16: few distinct sizes, all fast to transform.
    noise = _noise(-(-max(height, width) // 16) * 16, rng.uniform(0.4, 1.4), 1, rng)[:height, :width]
    texture = (colour + rng.uniform(0.02, 0.12) * noise).astype(np.float32)
    # The ramp is centred on the level that makes the mask, so that half-covered pixels lie on its border.
    alpha = np.clip((ink[window] - _INK_LEVEL) * 4.0 + 0.5, 0.0, 1.0)[..., None]
    painted = image.copy()
    painted[window] += alpha * (texture - painted[window])
    return painted


def _expose(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Applies uneven light, exposure and sensor noise, and returns (H, W, 3) uint8."""
    size = image.shape[0]
    ramp = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    slope = rng.uniform(-0.4, 0.4, 2)
    light = rng.uniform(0.7, 1.2) * (1.0 + slope[0] * ramp[:, None, None] + slope[1] * ramp[None, :, None])
    contrast = rng.uniform(0.7, 1.1)
    exposed = ((image - 0.5) * contrast + 0.5) * light
    noisy = exposed + rng.uniform(0.0, 0.02) * rng.standard_normal(image.shape, dtype=np.float32)
    return (np.clip(noisy, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
