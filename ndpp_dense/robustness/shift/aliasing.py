"""Aliasing: how much of a curve's variation repeats with the stride of the network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

__all__ = ["ShiftSpectrum", "circular_padding", "shift_spectrum"]

_FLAT = 1e-12  # share of the mean's energy below which a curve counts as constant


@dataclass(frozen=True)
class ShiftSpectrum:
    """The spectrum of a curve over consecutive shifts.

    Attributes:
        frequencies: ``(F,)``, in cycles a pixel, from 0 to 1/2.
        power: ``(F,)``, the energy at each; all but the first add up to the variance of the curve.
        harmonic_share: Share of the energy beyond the mean that lies on multiples of ``1 / stride``, in [0, 1]; 1 where
            the curve repeats exactly, NaN for a constant curve.
        chance: That share of white noise: frequencies on multiples over all.
        stride: In pixels.
        length: Shifts that were used: the middle ones, a multiple of the stride.
    """

    frequencies: np.ndarray
    power: np.ndarray
    harmonic_share: float
    chance: float
    stride: int
    length: int


def shift_spectrum(pixels: np.ndarray, values: np.ndarray, stride: int) -> ShiftSpectrum:
    """The spectrum of a curve, and what of it has the period of the network's stride.

    Discrete pooling lets the answers of a network repeat with its stride: what repeats has its energy on the harmonics
    ``k / stride``. A slow fall of accuracy with distance has it at low frequencies, between them.

    Args:
        pixels: ``(n,)``, consecutive shifts.
        values: ``(n,)``, the figure at each, such as accuracy; or ``(..., n)`` curves, whose energies are added.
        stride: Pixels of the input to a step of the last feature map, >= 2.

    Raises:
        ValueError: Shifts are missing between the first and the last, there are fewer than two strides of them, or
            values are not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    pixels = np.asarray(pixels)
    if stride < 2:
        raise ValueError(f"stride = {stride}: it must be at least 2.")
    if len(pixels) < 2 * stride or not (np.diff(pixels) == 1).all():
        raise ValueError(
            f"a spectrum at stride {stride} needs at least {2 * stride} shifts, one after the other along an axis; "
            f"there are {len(pixels)} from {pixels.min(initial=0)} to {pixels.max(initial=0)}."
        )
    if values.shape[-1] != len(pixels) or not np.isfinite(values).all():
        raise ValueError(f"a spectrum needs {len(pixels)} finite values, one a shift.")
    length = len(pixels) // stride * stride
    start = (len(pixels) - length) // 2
    chosen = values[..., start : start + length]
    power = np.abs(np.fft.rfft(chosen, axis=-1) / length) ** 2
    power[..., 1 : (length + 1) // 2] *= 2  # those beyond one half are their mirror images
    power = power.reshape(-1, power.shape[-1]).sum(0)
    multiples = np.arange(1, len(power)) % (length // stride) == 0
    varying = power[1:].sum()
    share = power[1:][multiples].sum() / varying if varying > _FLAT * max(power[0], 1e-30) else np.nan
    # Pairs of mirrored frequencies, as noise has them: stride - 1 of length - 1.
    chance = (stride - 1) / (length - 1)
    return ShiftSpectrum(np.arange(len(power)) / length, power, float(share), chance, stride, length)


@contextmanager
def circular_padding(model: nn.Module) -> Iterator[int]:
    """Lets convolutions pad with what is on the other side, inside the block.

    With circular borders as well, the only thing left that can change a network's answer is its strides: it is then
    exactly periodic in them where it reads out means.

    Args:
        model: Its ``nn.Conv2d`` layers are set, those of ND++ included; pools that pad are left as they are.

    Yields:
        How many layers were set.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and any(_numbers(layer.padding))]
    before: list[Any] = [layer.padding_mode for layer in layers]
    try:
        for layer in layers:
            layer.padding_mode = "circular"
        yield len(layers)
    finally:
        for layer, mode in zip(layers, before, strict=True):
            layer.padding_mode = mode


def _numbers(padding: object) -> tuple[int, ...]:
    return tuple(padding) if isinstance(padding, tuple) else (1 if padding == "same" else 0,)
