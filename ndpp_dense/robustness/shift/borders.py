"""Moving a picture inside its frame: what comes in at the border, and what of the picture is still there."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["BORDERS", "Shift", "check_border", "check_reach", "translate", "visible_part"]

Shift = tuple[int, int]  # rows down and columns to the right, in pixels
BORDERS = ("zero", "reflect", "mirror", "circular")


def check_border(border: str) -> None:
    """Refuses an unknown border.

    Raises:
        ValueError: It is none of ``BORDERS``.
    """
    if border not in BORDERS:
        raise ValueError(f"border = {border!r}: it must be one of {', '.join(map(repr, BORDERS))}.")


def check_reach(size: tuple[int, int], shift: Shift, border: str, where: str = "an image") -> None:
    """Refuses a shift that leaves nothing of the picture; circular borders never do.

    Args:
        size: Height and width in pixels.
        shift: Rows down and columns to the right.
        border: One of ``BORDERS``.
        where: Name of the image, for the message.

    Raises:
        ValueError: The shift is as large as the image, or larger.
    """
    if border != "circular" and (abs(shift[0]) >= size[0] or abs(shift[1]) >= size[1]):
        raise ValueError(
            f"{where} has {size[1]} x {size[0]} pixels (width x height): a shift of {shift[1]} columns and {shift[0]} "
            f"rows leaves nothing of it. Give smaller shifts, larger images, or border 'circular'."
        )


def translate(images: Tensor, shift: Shift, border: str = "mirror") -> Tensor:
    """Moves images inside their frame by whole pixels.

    Args:
        images: ``(..., H, W)``, of any type.
        shift: Rows down and columns to the right; negative ones go up and left.
        border: What comes in: ``"zero"`` (black), ``"reflect"`` (the picture without its edge, as NumPy's
            ``reflect``), ``"mirror"`` (a mosaic of mirrored pictures, as NumPy's ``symmetric``) or ``"circular"`` (what
            leaves on the other side).

    Returns:
        ``(..., H, W)``; the argument itself for the shift ``(0, 0)``.

    Raises:
        ValueError: The border is unknown, or nothing would be left of the picture.
    """
    check_border(border)
    height, width = images.shape[-2:]
    check_reach((height, width), shift, border)
    if shift == (0, 0):
        return images
    rows, columns = (_sources(size, step, border) for size, step in zip((height, width), shift, strict=True))
    moved = images.index_select(-2, rows.to(images.device)).index_select(-1, columns.to(images.device))
    if border == "zero":
        top, left, bottom, right = visible_part((height, width), shift, border)
        outside = torch.ones(height, width, dtype=torch.bool, device=images.device)
        outside[top:bottom, left:right] = False
        moved = moved.masked_fill(outside, 0)
    return moved


def visible_part(size: tuple[int, int], shift: Shift, border: str) -> tuple[int, int, int, int]:
    """Where the picture lies in its frame after a shift, without what came in at the border.

    Args:
        size: Height and width in pixels.
        shift: Rows down and columns to the right.
        border: One of ``BORDERS``; all of a circular picture stays.

    Returns:
        First row, first column, the row after the last and the column after the last.
    """
    if border == "circular":
        return 0, 0, *size
    (height, width), (down, right) = size, shift
    return max(0, down), max(0, right), height + min(0, down), width + min(0, right)


def _sources(size: int, step: int, border: str) -> Tensor:
    """The former index of each index along an axis; where nothing was there, of a pixel nearby."""
    index = torch.arange(size) - step
    if border == "circular":
        return index % size
    if border == "zero":
        return index.clamp(0, size - 1)
    last = 2 * size - 1 if border == "mirror" else 2 * size - 2
    period = 2 * size if border == "mirror" else max(1, 2 * size - 2)
    index = index % period
    return torch.where(index < size, index, last - index)
