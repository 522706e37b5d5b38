"""Draws one street seen from a car: an image and the class of every pixel, from the same shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from numpy.random import Generator

__all__ = ["IGNORE", "TRAIN_IDS", "Street", "draw_street"]

# Cityscapes' training ids, so that its readers, palettes and class names fit.
TRAIN_IDS = {
    "road": 0,
    "sidewalk": 1,
    "building": 2,
    "traffic sign": 7,
    "vegetation": 8,
    "sky": 10,
    "person": 11,
    "car": 13,
}
IGNORE = 255
_HOOD = 0.05  # share of the height at the bottom that shows the own car, without a class as in Cityscapes
_Colour = tuple[int, int, int]
_Point = tuple[float, float]


@dataclass(frozen=True)
class Street:
    """A scene.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        labels: (H, W) uint8, values of ``TRAIN_IDS`` and 255.
    """

    image: np.ndarray
    labels: np.ndarray


def draw_street(height: int, rng: Generator) -> Street:
    """Draws a scene twice as wide as high.

    Args:
        height: in pixels, >= 32.
        rng: decides everything; the same state gives the same scene.
    """
    pen = _Pen(height, 2 * height)
    horizon = height * rng.uniform(0.38, 0.5)
    vanish = 2 * height * rng.uniform(0.4, 0.6)
    _draw_ground(pen, horizon, vanish, rng)
    for side in (-1, 1):
        _draw_row(pen, horizon, vanish, side, rng)
    depths = np.sort(rng.uniform(0.3, 0.95, int(rng.integers(5, 10))))  # far ones first: near ones cover them
    for depth in depths:
        _draw_object(pen, horizon, vanish, float(depth), rng)
    pen.rectangle((0, height * (1 - _HOOD), 2 * height, height), None, _vary((40, 40, 48), rng))
    return Street(_photograph(np.asarray(pen.image), rng), np.asarray(pen.labels))


class _Pen:
    """Draws on image and labels at once."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.image = Image.new("RGB", (width, height))
        self.labels = Image.new("L", (width, height), IGNORE)
        self._both = (ImageDraw.Draw(self.image), ImageDraw.Draw(self.labels))

    def polygon(self, points: list[_Point], name: str | None, colour: _Colour) -> None:
        for draw, fill in zip(self._both, (colour, _label(name)), strict=True):
            draw.polygon(points, fill=fill)

    def rectangle(self, box: tuple[float, float, float, float], name: str | None, colour: _Colour) -> None:
        for draw, fill in zip(self._both, (colour, _label(name)), strict=True):
            draw.rectangle(box, fill=fill)

    def ellipse(self, box: tuple[float, float, float, float], name: str | None, colour: _Colour) -> None:
        for draw, fill in zip(self._both, (colour, _label(name)), strict=True):
            draw.ellipse(box, fill=fill)


def _label(name: str | None) -> int:
    return IGNORE if name is None else TRAIN_IDS[name]


def _draw_ground(pen: _Pen, horizon: float, vanish: float, rng: Generator) -> None:
    width, bottom = pen.width, pen.height
    pen.rectangle((0, 0, width, horizon), "sky", _vary((150, 185, 225), rng, 35))
    pen.rectangle((0, horizon, width, bottom), "sidewalk", _vary((165, 150, 150), rng))
    near = width * rng.uniform(0.3, 0.42)  # half the road's width at the bottom
    road = _vary((95, 95, 100), rng, 25)
    corners = [(vanish - 2, horizon), (vanish + 2, horizon), (vanish + near, bottom), (vanish - near, bottom)]
    pen.polygon(corners, "road", road)
    for step in range(4):  # lane marking, dashed
        top, low = (horizon + (bottom - horizon) * (step + share) / 4 for share in (0.15, 0.6))
        half = [max(0.4, near * 0.025 * (y - horizon) / (bottom - horizon)) for y in (top, low)]
        marking = [(vanish - half[0], top), (vanish + half[0], top), (vanish + half[1], low), (vanish - half[1], low)]
        pen.polygon(marking, "road", (215, 215, 205))


def _draw_row(pen: _Pen, horizon: float, vanish: float, side: int, rng: Generator) -> None:
    """Houses and trees along one side, from far to near."""
    reach = vanish if side < 0 else pen.width - vanish
    edges = np.linspace(0.05, 1.0, int(rng.integers(4, 7)))
    for near, far in zip(edges[1:], edges[:-1], strict=True):
        x0, x1 = sorted((vanish + side * reach * far, vanish + side * reach * near))
        foot = horizon + (pen.height - horizon) * 0.3 * far
        top = horizon * (1 - near * rng.uniform(0.45, 0.95))
        if rng.random() < 0.3:
            trunk = (x0 + x1) / 2
            pen.rectangle((trunk - 1, horizon * 0.8, trunk + 1, foot), "vegetation", _vary((90, 65, 40), rng))
            pen.ellipse((x0 - 2, top, x1 + 2, foot - (foot - top) * 0.25), "vegetation", _vary((60, 115, 50), rng, 25))
            continue
        pen.rectangle((x0, top, x1, foot), "building", _vary((150, 120, 100), rng, 40))
        glass = _vary((70, 80, 100), rng)
        step = max(4.0, (foot - top) / 5)
        for y in np.arange(top + step / 2, foot - step / 2, step):
            for x in np.arange(x0 + step / 2, x1 - step / 2, step):
                pen.rectangle((x, y, x + step * 0.4, y + step * 0.45), "building", glass)


def _draw_object(pen: _Pen, horizon: float, vanish: float, depth: float, rng: Generator) -> None:
    """A car on the road, or a person or sign beside it; `depth` is 0 at the horizon, 1 at the bottom of the image."""
    kind = rng.choice(["car", "person", "traffic sign"], p=[0.4, 0.35, 0.25])
    foot = horizon + (pen.height - horizon) * (0.1 + 0.85 * depth)
    scale = pen.height * 0.5 * (0.25 + 0.75 * depth)
    side = rng.choice([-1, 1])
    if kind == "car":
        x = vanish + side * rng.uniform(0.1, 0.6) * pen.width * 0.35 * depth
        _draw_car(pen, x, foot, scale * rng.uniform(0.6, 0.75), rng)
        return
    x = vanish + side * (0.42 + rng.uniform(0.0, 0.25)) * pen.width * (0.15 + 0.85 * depth)
    if kind == "person":
        _draw_person(pen, x, foot, scale * rng.uniform(0.75, 0.95), rng)
    else:
        size = scale * rng.uniform(0.4, 0.5)
        pole = max(1.0, scale * 0.03)
        pen.rectangle((x - pole, foot - scale * 1.0, x + pole, foot), None, (130, 130, 135))
        shape = pen.ellipse if rng.random() < 0.5 else pen.rectangle
        shape((x - size / 2, foot - scale * 1.1 - size / 2, x + size / 2, foot - scale * 1.1 + size / 2),
              "traffic sign", _vary((205, 40, 40) if rng.random() < 0.5 else (40, 70, 200), rng))  # fmt: skip


def _draw_car(pen: _Pen, x: float, foot: float, size: float, rng: Generator) -> None:
    paint = _any_colour(rng)
    left, right = x - size * 0.8, x + size * 0.8
    pen.polygon([(left + size * 0.25, foot - size), (right - size * 0.25, foot - size),
                 (right, foot - size * 0.5), (left, foot - size * 0.5)], "car", paint)  # fmt: skip
    pen.rectangle((left, foot - size * 0.55, right, foot - size * 0.12), "car", paint)
    window = (left + size * 0.3, foot - size * 0.92, right - size * 0.3, foot - size * 0.58)
    pen.rectangle(window, "car", _vary((60, 75, 90), rng))
    for wheel in (left + size * 0.25, right - size * 0.25):
        box = (wheel - size * 0.16, foot - size * 0.28, wheel + size * 0.16, foot)
        pen.ellipse(box, "car", (25, 25, 28))
    for lamp in (left + size * 0.12, right - size * 0.12):
        box = (lamp - size * 0.08, foot - size * 0.45, lamp + size * 0.08, foot - size * 0.33)
        pen.rectangle(box, "car", (240, 230, 170))


def _draw_person(pen: _Pen, x: float, foot: float, size: float, rng: Generator) -> None:
    coat = _any_colour(rng)
    legs = _vary((50, 50, 75), rng)
    half = size * 0.16
    for leg in (-0.6, 0.6):
        pen.rectangle(
            (x + leg * half - half * 0.4, foot - size * 0.5, x + leg * half + half * 0.4, foot), "person", legs
        )
    pen.rectangle((x - half, foot - size * 0.82, x + half, foot - size * 0.42), "person", coat)
    head = size * 0.1
    pen.ellipse((x - head, foot - size, x + head, foot - size * 0.8), "person", _vary((200, 160, 130), rng))


def _any_colour(rng: Generator) -> _Colour:
    red, green, blue = (int(value) for value in rng.integers(20, 236, 3))
    return red, green, blue


def _vary(colour: _Colour, rng: Generator, spread: int = 15) -> _Colour:
    offsets = rng.integers(-spread, spread + 1, 3)
    red, green, blue = (int(np.clip(value + offset, 0, 255)) for value, offset in zip(colour, offsets, strict=True))
    return red, green, blue


def _photograph(image: np.ndarray, rng: Generator) -> np.ndarray:
    """Light, contrast, noise coarse and fine: colour alone should not tell the classes apart."""
    height, width = image.shape[:2]
    coarse = rng.normal(0, 9, (height // 4 + 1, width // 4 + 1, 3)).repeat(4, 0).repeat(4, 1)[:height, :width]
    left, right = rng.uniform(0.75, 1.15, 2)
    shadow = np.linspace(left, right, width)[None, :, None]
    values = image * shadow * rng.uniform(0.75, 1.1) + coarse + rng.normal(0, 6, image.shape) + rng.uniform(-12, 12)
    return np.clip(values, 0, 255).astype(np.uint8)
