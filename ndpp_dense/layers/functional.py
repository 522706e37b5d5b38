"""The linear maps with their per-sample scale, shared by ND++ layers and the plain layers that they fold into."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ndpp_dense.ops import scaled_conv as ops
from ndpp_dense.ops.eager import runs_eagerly
from ndpp_dense.ops.scaled_map import scale_and_shift, scaled_map

__all__ = [
    "FEATURE_DIMS",
    "SAMPLE_DIMS",
    "autocast_dtype",
    "fuses_scale",
    "geometry",
    "pad_input",
    "scaled_conv2d",
    "scaled_conv_transpose2d",
    "scaled_linear",
    "self_scaled_conv2d",
]

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
    return ops.scaled_conv2d(x, scale, weight.to(layer.weight.dtype), bias, _geometry(layer, padding))


def fuses_scale(layer: nn.Conv2d, x: Tensor) -> bool:
    """Whether :func:`self_scaled_conv2d` can take the place of scale and convolution, and has something to save.

    It cannot where gradients are not left to autograd alone, where the input is padded before the convolution, and in
    float16, whose range wants the input scaled rather than the output.
    """
    native_padding = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    half = torch.float16 in (x.dtype, autocast_dtype(x))
    return torch.is_grad_enabled() and native_padding and not half and runs_eagerly(x)


def self_scaled_conv2d(
    layer: nn.Conv2d, x: Tensor, scale: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, int]
) -> Tensor:
    """:func:`scaled_conv2d` where the scale is ``1 / mean|x|``, with the gradient through it.

    Args:
        layer: Gives stride, dilation and groups.
        x: Input.
        scale: Its scale, without a graph of its own.
        weight: Whitened weight.
        bias: Whitened bias.
        padding: Zero padding.
    """
    chosen = autocast_dtype(x)
    weight = weight.to(chosen or layer.weight.dtype)
    with torch.autocast(x.device.type, enabled=False):
        arguments = (x.to(chosen or x.dtype), scale, weight, bias, _geometry(layer, padding))
        return ops.ScaledConv2d.apply(*arguments)  # type: ignore[no-any-return]


def _geometry(layer: nn.Conv2d, padding: tuple[int, int]) -> ops.ConvGeometry:
    stride, dilation = cast("tuple[tuple[int, int], ...]", (layer.stride, layer.dilation))
    return ops.ConvGeometry(stride, padding, dilation, layer.groups)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Data type that autocast chooses for a convolution of ``x``; None where it leaves the input as it is."""
    device = x.device.type
    casts = torch.is_autocast_enabled(device) and x.dtype != torch.float64
    return torch.get_autocast_dtype(device) if casts else None


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
    weight = weight.to(dtype)

    def multiply(x: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, None if bias is None else bias.to(dtype))

    return scaled_map(multiply, x, scale, bias, positions=0, expands=len(weight) >= weight.shape[1])
