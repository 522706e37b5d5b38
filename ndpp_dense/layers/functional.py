"""The linear maps with their per-sample scale, shared by ND++ layers and the plain layers that they fold into."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ndpp_dense.layers.local_scale import scale_and_shift

SAMPLE_DIMS = (1, 2, 3)  # what one sample of a convolution's input spans
FEATURE_DIMS = (-1,)  # what one row of a linear layer's input spans


def geometry(conv: nn.Conv2d | nn.ConvTranspose2d) -> dict[str, Any]:
    """Constructor arguments that make a layer of the same shape (its bias aside)."""
    names = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"]
    if isinstance(conv, nn.ConvTranspose2d):
        names.append("output_padding")
    return {name: getattr(conv, name) for name in names}


def pad_input(layer: nn.Conv2d, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Pads explicitly where a convolution's own zero padding cannot.

    Returns:
        The input and the zero padding that is left to the convolution.
    """
    if layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        return x, cast("tuple[int, int]", layer.padding)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(x, layer._reversed_padding_repeated_twice, mode=mode), (0, 0)


def scaled_conv2d(
    layer: nn.Conv2d, x: Tensor, scale: Tensor | None, weight: Tensor, bias: Tensor, padding: tuple[int, int]
) -> Tensor:
    """``scale * conv2d(x, weight) + bias`` with the stride, dilation and groups of ``layer``."""
    weight = weight.to(layer.weight.dtype)
    if scale is None:
        bias = bias.to(layer.weight.dtype)
        return F.conv2d(x, weight, bias, layer.stride, padding, layer.dilation, layer.groups)
    y = F.conv2d(x, weight, None, layer.stride, padding, layer.dilation, layer.groups)
    return scale_and_shift(y, scale, bias.view(1, -1, 1, 1))


def scaled_conv_transpose2d(
    layer: nn.ConvTranspose2d, x: Tensor, scale: Tensor | None, weight: Tensor, bias: Tensor
) -> Tensor:
    """``scale * conv_transpose2d(x, weight) + bias``, where the bias has one value per phase: ``(out, sh, sw)``."""
    paddings = cast("tuple[int, int]", layer.padding)
    weight = weight.to(layer.weight.dtype)
    y = F.conv_transpose2d(x, weight, None, layer.stride, paddings, layer.output_padding, layer.groups)
    phase = [
        (torch.arange(size, device=y.device) + padding) % stride
        for size, padding, stride in zip(y.shape[2:], paddings, layer.stride, strict=True)
    ]
    return scale_and_shift(y, scale, bias[:, phase[0]][:, :, phase[1]])


def scaled_linear(x: Tensor, scale: Tensor | None, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """``scale * (x weight^T) + bias``; ``dtype`` is that of the layer's own parameters."""
    if scale is None:
        return F.linear(x, weight.to(dtype), bias.to(dtype))
    return scale_and_shift(F.linear(x, weight.to(dtype)), scale, bias)
