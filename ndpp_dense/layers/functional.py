"""The linear maps with their per-sample scale, shared by ND++ layers and the plain layers that they fold into."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ndpp_dense.ops import scaled_conv as ops
from ndpp_dense.ops.eager import differentiates_by_hand
from ndpp_dense.ops.precision import autocasts, without_autocast
from ndpp_dense.ops.scaled_map import scale_and_shift, scaled_map

__all__ = [
    "FEATURE_DIMS",
    "autocast_dtype",
    "fuses_scale",
    "geometry",
    "is_unbatched",
    "pad_input",
    "sample_dims",
    "scaled_conv",
    "scaled_conv_transpose",
    "scaled_linear",
    "self_scaled_conv2d",
]

FEATURE_DIMS = (-1,)  # what one row of a linear layer's input spans


_CONVOLUTIONS: tuple[Callable[..., Tensor], ...] = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED: tuple[Callable[..., Tensor], ...] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def sample_dims(x: Tensor) -> tuple[int, ...]:
    """What one sample of a convolution's input spans."""
    return tuple(range(1, x.dim()))


def is_unbatched(conv: _ConvNd, x: Tensor) -> bool:
    """Whether a convolution gets a single sample, without a dimension for samples."""
    return x.dim() == conv.weight.dim() - 1


def geometry(conv: _ConvNd) -> dict[str, Any]:
    """Constructor arguments that make a layer of the same shape (its bias aside)."""
    names = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"]
    if isinstance(conv, _ConvTransposeNd):
        names.append("output_padding")
    return {name: getattr(conv, name) for name in names}


def pad_input(layer: _ConvNd, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Pads explicitly where a convolution's own zero padding cannot.

    Returns:
        The input and the zero padding that is left to the convolution.
    """
    if layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
        return x, cast("tuple[int, ...]", layer.padding)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(x, layer._reversed_padding_repeated_twice, mode=mode), (0,) * len(layer.stride)


def scaled_conv(
    layer: _ConvNd, x: Tensor, scale: Tensor | None, weight: Tensor, bias: Tensor, padding: tuple[int, ...]
) -> Tensor:
    """``scale * conv(x, weight) + bias`` with the stride, dilation and groups of ``layer``."""
    weight, axes = weight.to(layer.weight.dtype), len(layer.stride)
    if axes == 2:
        return ops.scaled_conv2d(x, scale, weight, bias, _geometry(layer, padding))

    def convolve(x: Tensor, bias: Tensor | None) -> Tensor:
        bias = None if bias is None else bias.to(weight.dtype)
        return _CONVOLUTIONS[axes - 1](x, weight, bias, layer.stride, padding, layer.dilation, layer.groups)

    expands = len(weight) >= x.shape[1] * prod(layer.stride)
    return scaled_map(convolve, x, scale, bias, positions=axes, expands=expands)


def fuses_scale(layer: _ConvNd, x: Tensor) -> bool:
    """Whether :func:`self_scaled_conv2d` can take the place of scale and convolution, and has something to save.

    It is for two dimensions. It cannot where gradients are not left to autograd alone, where the input is padded
    before the convolution, and in float16, whose range wants the input scaled rather than the output.
    """
    native_padding = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    half = torch.float16 in (x.dtype, autocast_dtype(x))
    return x.dim() == 4 and torch.is_grad_enabled() and native_padding and not half and differentiates_by_hand(x)


def self_scaled_conv2d(
    layer: _ConvNd, x: Tensor, scale: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, ...]
) -> Tensor:
    """:func:`scaled_conv`, of two dimensions, where the scale is ``1 / mean|x|``, with the gradient through it.

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
    with without_autocast(x.device):
        arguments = (x.to(chosen or x.dtype), scale, weight, bias, _geometry(layer, padding))
        return ops.ScaledConv2d.apply(*arguments)  # type: ignore[no-any-return]


def _geometry(layer: _ConvNd, padding: tuple[int, ...]) -> ops.ConvGeometry:
    stride, padding, dilation = cast("tuple[tuple[int, int], ...]", (layer.stride, padding, layer.dilation))
    return ops.ConvGeometry(stride, padding, dilation, layer.groups)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """Data type that autocast chooses for a convolution of ``x``; None where it leaves the input as it is."""
    casts = autocasts(x.device) and x.dtype != torch.float64
    return torch.get_autocast_dtype(x.device.type) if casts else None


def scaled_conv_transpose(
    layer: _ConvTransposeNd, x: Tensor, scale: Tensor | None, weight: Tensor, bias: Tensor
) -> Tensor:
    """``scale * conv_transpose(x, weight) + bias``, where the bias has one value per phase: ``(out, *stride)``."""
    paddings = cast("tuple[int, ...]", layer.padding)
    convolve = _TRANSPOSED[len(paddings) - 1]
    y = convolve(x, weight.to(layer.weight.dtype), None, layer.stride, paddings, layer.output_padding, layer.groups)
    for axis, (padding, stride) in enumerate(zip(paddings, layer.stride, strict=True)):
        phase = (torch.arange(y.shape[2 + axis], device=y.device) + padding) % stride
        bias = bias.index_select(1 + axis, phase)
    return scale_and_shift(y, scale, bias)


def scaled_linear(x: Tensor, scale: Tensor | None, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """``scale * (x weight^T) + bias``; ``dtype`` is that of the layer's own parameters."""
    weight = weight.to(dtype)

    def multiply(x: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, None if bias is None else bias.to(dtype))

    return scaled_map(multiply, x, scale, bias, positions=0, expands=len(weight) >= weight.shape[1])
