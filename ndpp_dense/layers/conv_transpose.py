"""ND++ transposed convolution (the correlation layer of the paper).

An output pixel of stride s sees a ``t x t`` window of the input, ``t = kernel_size / s``, whatever its phase (position
modulo s): the phases differ in their weights only. So there is one data matrix for all phases, with ``C t^2`` columns;
for ``kernel_size == stride`` the columns are just the channels.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ndpp_dense.layers.base import NDLayer
from ndpp_dense.layers.config import WhiteningConfig
from ndpp_dense.layers.functional import SAMPLE_DIMS, geometry, scaled_conv_transpose2d
from ndpp_dense.ops.patches import Window, patch_matrix

__all__ = ["NDConvTranspose2d", "unsupported_geometry"]


class NDConvTranspose2d(NDLayer, nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` on scaled and whitened input windows (ND++, Eq. 3, Case 3).

    Args:
        *args: As for ``nn.ConvTranspose2d``.
        config: How to whiten; ``WhiteningConfig()`` if None.
        **kwargs: As for ``nn.ConvTranspose2d``.

    Raises:
        ValueError: The kernel is no multiple of the stride (its phases see different windows), or it is dilated.
    """

    def __init__(self, *args: Any, config: WhiteningConfig | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        fault = unsupported_geometry(self)
        if fault:
            raise ValueError(f"NDConvTranspose2d: {fault}. Keep nn.ConvTranspose2d for this layer.")
        config = config or WhiteningConfig()
        self.window = (self.kernel_size[0] // self.stride[0], self.kernel_size[1] // self.stride[1])
        taps = self.window[0] * self.window[1]
        block_size = config.block_size if taps == 1 else config.block_size_spatial
        self._init_whitening(config, self.in_channels // self.groups, block_size, taps)

    @classmethod
    def from_conv_transpose(cls, conv: nn.ConvTranspose2d, config: WhiteningConfig | None = None) -> NDConvTranspose2d:
        """The ND++ layer with a plain layer's geometry and (the same) parameters, and with a bias."""
        layer = cls(**geometry(conv), config=config, device="meta")
        layer._adopt(conv)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(N, in_channels, H, W)`` to ``(N, out_channels, H', W')``; N may be 0."""
        x, scale = self._scaled(x, SAMPLE_DIMS)
        mean, whitening = self.whitening(lambda sampling: self._data_matrix(x, scale, sampling))
        weight, bias = self.effective_parameters(mean, whitening)
        return self._activate(scaled_conv_transpose2d(self, x, scale, weight, bias))

    def _data_matrix(self, x: Tensor, scale: Tensor | None, sampling: int) -> Tensor:
        pads: list[int] = []
        for axis in (1, 0):  # F.pad takes the last axis first
            size, padding, stride, window = x.shape[2 + axis], self.padding[axis], self.stride[axis], self.window[axis]
            out = (size - 1) * stride - 2 * int(padding) + self.kernel_size[axis] + self.output_padding[axis]
            first, last = int(padding) // stride, (out - 1 + int(padding)) // stride
            pads += [window - 1 - first, last - (size - 1)]  # window q ends at input pixel q
        return patch_matrix(F.pad(x, pads), self.block_size, Window(self.window, (sampling, sampling)), scale)

    def _blocked_weight(self) -> Tensor:
        (sh, sw), (th, tw) = self.stride, self.window
        per_group = self.in_channels // self.groups // self.block_size
        weight = self.weight.reshape(self.groups, per_group, self.block_size, -1, th, sh, tw, sw)
        weight = weight.permute(0, 3, 5, 7, 1, 2, 4, 6).flip(-2, -1)  # tap u of the window meets kernel step t - 1 - u
        return weight.reshape(self.groups, -1, per_group, self.block_size * th * tw)

    def _unblocked_weight(self, weight_QOGD: Tensor) -> Tensor:
        (sh, sw), (th, tw) = self.stride, self.window
        groups, _, per_group, _ = weight_QOGD.shape
        weight = weight_QOGD.view(groups, -1, sh, sw, per_group, self.block_size, th, tw).flip(-2, -1)
        return weight.permute(0, 4, 5, 1, 6, 2, 7, 3).reshape(self.weight.shape)

    def _unblocked_bias(self, bias_QO: Tensor) -> Tensor:
        return bias_QO.view(self.out_channels, *self.stride)

    def _outputs_per_channel(self) -> int:
        return self.stride[0] * self.stride[1]


def unsupported_geometry(conv: nn.ConvTranspose2d) -> str | None:
    """Why a transposed convolution cannot be whitened, or None if it can."""
    if conv.dilation != (1, 1):
        return f"dilation = {conv.dilation} is not supported (1 is)"
    if any(k % s for k, s in zip(conv.kernel_size, conv.stride, strict=True)):
        return f"kernel_size = {conv.kernel_size} is not a multiple of stride = {conv.stride}"
    return None
