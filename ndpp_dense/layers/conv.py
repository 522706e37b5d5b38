"""ND++ convolution."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ndpp_dense.layers.base import NDLayer
from ndpp_dense.layers.config import WhiteningConfig
from ndpp_dense.layers.functional import (
    SAMPLE_DIMS,
    fuses_scale,
    geometry,
    pad_input,
    scaled_conv2d,
    self_scaled_conv2d,
)
from ndpp_dense.ops.patches import Window, patch_matrix

__all__ = ["NDConv2d"]


class NDConv2d(NDLayer, nn.Conv2d):
    """``nn.Conv2d`` on scaled and whitened input windows (ND++, Algorithm 1).

    Args:
        *args: As for ``nn.Conv2d`` (groups, strides, dilation and every padding are supported).
        config: How to whiten; ``WhiteningConfig()`` if None.
        **kwargs: As for ``nn.Conv2d``.
    """

    def __init__(self, *args: Any, config: WhiteningConfig | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = config or WhiteningConfig()
        taps = self.kernel_size[0] * self.kernel_size[1]
        block_size = config.block_size if taps == 1 else config.block_size_spatial
        self._init_whitening(config, self.in_channels // self.groups, block_size, taps)

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, config: WhiteningConfig | None = None) -> NDConv2d:
        """The ND++ layer with a plain convolution's geometry and (the same) parameters, and with a bias."""
        layer = cls(**geometry(conv), config=config, device="meta")
        layer._adopt(conv)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(N, in_channels, H, W)`` to ``(N, out_channels, H', W')``; N may be 0."""
        fused = self._fuses(x)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not fused):
            x, scale = self._scaled(x, SAMPLE_DIMS)
        x, padding = pad_input(self, x)
        mean, whitening = self.whitening(lambda sampling: self._data_matrix(x, scale, padding, sampling))
        weight, bias = self.effective_parameters(mean, whitening)
        if fused and scale is not None:
            return self._activate(self_scaled_conv2d(self, x, scale, weight, bias, padding))
        return self._activate(scaled_conv2d(self, x, scale, weight, bias, padding))

    def _fuses(self, x: Tensor) -> bool:
        """Whether scale and convolution are differentiated as one."""
        return self._scale.fuses and self._scale_is_whole and self.config.grad == "detached" and fuses_scale(self, x)

    def _data_matrix(self, x: Tensor, scale: Tensor | None, padding: tuple[int, int], sampling: int) -> Tensor:
        stride = (self.stride[0] * sampling, self.stride[1] * sampling)
        kernel, dilation = cast("tuple[tuple[int, int], ...]", (self.kernel_size, self.dilation))
        return patch_matrix(x, self.block_size, Window(kernel, stride, padding, dilation), scale)

    def _blocked_weight(self) -> Tensor:
        dim = self.whitening.running_mean.shape[1]
        return self.weight.reshape(self.groups, self.out_channels // self.groups, -1, dim)

    def _unblocked_weight(self, weight_QOGD: Tensor) -> Tensor:
        return weight_QOGD.reshape(self.weight.shape)
