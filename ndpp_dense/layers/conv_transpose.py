"""ND++ transposed convolutions (the correlation layer of the paper), of one, two and three dimensions.

An output pixel of stride s sees a ``t x t`` window of the input, ``t = kernel_size / s``, whatever its phase (position
modulo s): the phases differ in their weights only. So there is one data matrix for all phases, with ``C t^2`` columns;
for ``kernel_size == stride`` the columns are just the channels.
"""

from __future__ import annotations

from math import prod
from typing import Any, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from ndpp_dense.layers.base import NDLayer
from ndpp_dense.layers.config import WhiteningConfig
from ndpp_dense.layers.functional import geometry, is_unbatched, sample_dims, scaled_conv_transpose
from ndpp_dense.layers.symbolic import as_one_step
from ndpp_dense.ops.patches import Window, patch_matrix

__all__ = ["NDConvTranspose", "NDConvTranspose1d", "NDConvTranspose2d", "NDConvTranspose3d", "unsupported_geometry"]

Layer = TypeVar("Layer", bound="NDConvTranspose")


class NDConvTranspose(NDLayer, _ConvTransposeNd):
    """What transposed convolutions of any number of dimensions have in common; use one of the classes below."""

    def __init__(self, *args: Any, config: WhiteningConfig | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        fault = unsupported_geometry(self)
        if fault:
            plain = type(self).__name__.removeprefix("ND")
            raise ValueError(f"{type(self).__name__}: {fault}. Keep nn.{plain} for this layer.")
        config = config or WhiteningConfig()
        self.window = tuple(k // s for k, s in zip(self.kernel_size, self.stride, strict=True))
        taps = prod(self.window)
        block_size = config.block_size if taps == 1 else config.block_size_spatial
        self._init_whitening(config, self.in_channels // self.groups, block_size, taps)

    @classmethod
    def from_conv_transpose(cls: type[Layer], conv: _ConvTransposeNd, config: WhiteningConfig | None = None) -> Layer:
        """The ND++ layer with a plain layer's geometry and (the same) parameters, and with a bias."""
        layer = cls(**geometry(conv), config=config, device="meta")
        layer._adopt(conv)
        return layer

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (as PyTorch's convolutions have it)
        """Maps ``(N, in_channels, *positions)`` to ``(N, out_channels, *positions)``; N may be 0, or left out."""
        step = as_one_step(self, input)
        if step is not None:
            return step
        if is_unbatched(self, input):
            return self._map(input.unsqueeze(0)).squeeze(0)
        return self._map(input)

    def _map(self, x: Tensor) -> Tensor:
        x, scale = self._scaled(x, sample_dims(x))
        mean, whitening = self.whitening(lambda sampling: self._data_matrix(x, scale, sampling))
        weight, bias = self.effective_parameters(mean, whitening)
        return self._activate(scaled_conv_transpose(self, x, scale, weight, bias))

    def _data_matrix(self, x: Tensor, scale: Tensor | None, sampling: int) -> Tensor:
        pads: list[int] = []
        for axis in reversed(range(len(self.window))):  # F.pad takes the last axis first
            size, padding, stride, window = x.shape[2 + axis], self.padding[axis], self.stride[axis], self.window[axis]
            out = (size - 1) * stride - 2 * int(padding) + self.kernel_size[axis] + self.output_padding[axis]
            first, last = int(padding) // stride, (out - 1 + int(padding)) // stride
            pads += [window - 1 - first, last - (size - 1)]  # window q ends at input pixel q
        axes = len(self.window)
        window = Window(self.window, (sampling,) * axes, (0,) * axes, (1,) * axes)
        return patch_matrix(F.pad(x, pads), self.block_size, window, scale)

    def _blocked_weight(self) -> Tensor:
        per_group, axes = self.in_channels // self.groups // self.block_size, len(self.window)
        taps_and_steps = [size for pair in zip(self.window, self.stride, strict=True) for size in pair]
        weight = self.weight.reshape(self.groups, per_group, self.block_size, -1, *taps_and_steps)
        taps, steps = (range(4 + first, 4 + 2 * axes, 2) for first in (0, 1))
        weight = weight.permute(0, 3, *steps, 1, 2, *taps)  # tap u of the window meets kernel step t - 1 - u
        weight = weight.flip(tuple(range(-axes, 0)))
        return weight.reshape(self.groups, -1, per_group, self.block_size * prod(self.window))

    def _unblocked_weight(self, weight_QOGD: Tensor) -> Tensor:
        groups, _, per_group, _ = weight_QOGD.shape
        axes = len(self.window)
        weight = weight_QOGD.view(groups, -1, *self.stride, per_group, self.block_size, *self.window)
        weight = weight.flip(tuple(range(-axes, 0)))
        pairs = [dim for axis in range(axes) for dim in (4 + axes + axis, 2 + axis)]
        return weight.permute(0, 2 + axes, 3 + axes, 1, *pairs).reshape(self.weight.shape)

    def _unblocked_bias(self, bias_QO: Tensor) -> Tensor:
        return bias_QO.view(self.out_channels, *self.stride)

    def _outputs_per_channel(self) -> int:
        return prod(self.stride)


class NDConvTranspose1d(NDConvTranspose, nn.ConvTranspose1d):
    """``nn.ConvTranspose1d`` on scaled and whitened input windows; see :class:`NDConvTranspose2d`."""


class NDConvTranspose2d(NDConvTranspose, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` on scaled and whitened input windows (ND++, Eq. 3, Case 3).

    Args:
        *args: As for ``nn.ConvTranspose2d``.
        config: How to whiten; ``WhiteningConfig()`` if None.
        **kwargs: As for ``nn.ConvTranspose2d``.

    Raises:
        ValueError: The kernel is no multiple of the stride (its phases see different windows), or it is dilated.
    """


class NDConvTranspose3d(NDConvTranspose, nn.ConvTranspose3d):
    """``nn.ConvTranspose3d`` on scaled and whitened input windows; see :class:`NDConvTranspose2d`."""


def unsupported_geometry(conv: _ConvTransposeNd) -> str | None:
    """Why a transposed convolution cannot be whitened, or None if it can."""
    if any(step != 1 for step in conv.dilation):
        return f"dilation = {conv.dilation} is not supported (1 is)"
    if any(k % s for k, s in zip(conv.kernel_size, conv.stride, strict=True)):
        return f"kernel_size = {conv.kernel_size} is not a multiple of stride = {conv.stride}"
    return None
