"""ND++ convolutions of one, two and three dimensions."""

from __future__ import annotations

from math import prod
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ndpp_dense.layers.base import NDLayer
from ndpp_dense.layers.config import WhiteningConfig
from ndpp_dense.layers.functional import (
    fuses_scale,
    geometry,
    is_unbatched,
    pad_input,
    sample_dims,
    scaled_conv,
    self_scaled_conv2d,
)
from ndpp_dense.layers.symbolic import as_one_step
from ndpp_dense.ops.patches import Window, patch_matrix

__all__ = ["NDConv", "NDConv1d", "NDConv2d", "NDConv3d"]

Layer = TypeVar("Layer", bound="NDConv")


class NDConv(NDLayer, _ConvNd):
    """What convolutions of any number of dimensions have in common; use one of the classes below."""

    def __init__(self, *args: Any, config: WhiteningConfig | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = config or WhiteningConfig()
        taps = prod(self.kernel_size)
        block_size = config.block_size if taps == 1 else config.block_size_spatial
        self._init_whitening(config, self.in_channels // self.groups, block_size, taps)

    @classmethod
    def from_conv(cls: type[Layer], conv: _ConvNd, config: WhiteningConfig | None = None) -> Layer:
        """The ND++ layer with a plain convolution's geometry and (the same) parameters, and with a bias."""
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
        fused = self._fuses(x)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not fused):
            x, scale = self._scaled(x, sample_dims(x))
        x, padding = pad_input(self, x)
        mean, whitening = self.whitening(lambda sampling: self._data_matrix(x, scale, padding, sampling))
        weight, bias = self.effective_parameters(mean, whitening)
        if fused and scale is not None:
            return self._activate(self_scaled_conv2d(self, x, scale, weight, bias, padding))
        return self._activate(scaled_conv(self, x, scale, weight, bias, padding))

    def _fuses(self, x: Tensor) -> bool:
        """Whether scale and convolution are differentiated as one."""
        return self._scale.fuses and self._scale_is_whole and self.config.grad == "detached" and fuses_scale(self, x)

    def _data_matrix(self, x: Tensor, scale: Tensor | None, padding: tuple[int, ...], sampling: int) -> Tensor:
        stride = tuple(step * sampling for step in self.stride)
        kernel, dilation = cast("tuple[tuple[int, ...], ...]", (self.kernel_size, self.dilation))
        return patch_matrix(x, self.block_size, Window(kernel, stride, padding, dilation), scale)

    def _blocked_weight(self) -> Tensor:
        dim = self.whitening.running_mean.shape[1]
        return self.weight.reshape(self.groups, self.out_channels // self.groups, -1, dim)

    def _unblocked_weight(self, weight_QOGD: Tensor) -> Tensor:
        return weight_QOGD.reshape(self.weight.shape)


class NDConv1d(NDConv, nn.Conv1d):
    """``nn.Conv1d`` on scaled and whitened input windows; see :class:`NDConv2d`."""


class NDConv2d(NDConv, nn.Conv2d):
    """``nn.Conv2d`` on scaled and whitened input windows (ND++, Algorithm 1).

    Args:
        *args: As for ``nn.Conv2d`` (groups, strides, dilation and every padding are supported).
        config: How to whiten; ``WhiteningConfig()`` if None.
        **kwargs: As for ``nn.Conv2d``.
    """


class NDConv3d(NDConv, nn.Conv3d):
    """``nn.Conv3d`` on scaled and whitened input windows; see :class:`NDConv2d`.

    With blocks of B channels and a 3x3x3 kernel D has ``27 B`` columns: a small ``block_size_spatial`` keeps it cheap.
    """
