"""1x1 convolutions with a factor per sample as products of matrices, which take factor and bias for nothing.

On CPUs a product ``alpha A B + beta C`` costs what ``A B`` does: large maps are not passed over again for the factor.
The product of dL/dy and x of each sample, whose weighted sum is the weight's gradient, gives the factor's gradient too:
``dL/ds_n = <dL/dy_n, W x_n> = <dL/dy_n x_n^T, W>``. A strided 1x1 convolution is one of the positions that it sees.

Shape suffixes: N samples, C input channels, O output channels, H and W rows and columns, P positions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ndpp_dense.ops.eager import runs_eagerly

__all__ = ["ConvGeometry", "is_product", "pointwise_conv", "pointwise_gradients", "seen_view", "sees_part"]

SHARE = 4  # a sample's product for the weight's gradient is written and read, and should be this much smaller than maps


class ConvGeometry(NamedTuple):
    """Stride, zero padding, dilation and groups of a convolution, as ``conv2d`` takes them."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


def is_product(x_NCHW: Tensor, weight_OC11: Tensor, geometry: ConvGeometry) -> bool:
    """Whether a convolution is a 1x1 one of maps that are large enough for products to be faster.

    Args:
        x_NCHW: Input.
        weight_OC11: Weight.
        geometry: Of the convolution.
    """
    if x_NCHW.device.type != "cpu" or not runs_eagerly(x_NCHW, weight_OC11) or not x_NCHW.is_contiguous():
        return False
    if x_NCHW.dtype not in (torch.float32, torch.float64) or weight_OC11.dtype != x_NCHW.dtype:
        return False
    if weight_OC11.shape[2:] != (1, 1) or geometry.padding != (0, 0) or geometry.groups != 1:
        return False
    outputs, channels = weight_OC11.shape[:2]
    positions = seen_view(x_NCHW, geometry.stride).shape[2:].numel()
    return SHARE * outputs * channels <= (outputs + channels) * positions


def sees_part(x_NCHW: Tensor, weight_OC11: Tensor, geometry: ConvGeometry) -> bool:
    """Whether a convolution is a strided 1x1 one whose backward pass is faster on a copy of the positions it sees.

    Torch's own, on CPUs, is slow there.
    """
    contiguous = x_NCHW.device.type == "cpu" and x_NCHW.is_contiguous()
    return contiguous and weight_OC11.shape[2:] == (1, 1) and geometry.padding == (0, 0) and max(geometry.stride) > 1


def pointwise_conv(
    x_NCHW: Tensor, scale_N111: Tensor, weight_OC11: Tensor, bias_O: Tensor, stride: tuple[int, int]
) -> Tensor:
    """``scale * conv2d(x, weight) + bias``; records no gradient.

    Args:
        x_NCHW: Input, contiguous.
        scale_N111: Factor per sample.
        weight_OC11: Weight.
        bias_O: Bias.
        stride: Of the convolution.
    """
    seen = seen_view(x_NCHW, stride).contiguous()
    y_NOHW = x_NCHW.new_empty(len(x_NCHW), len(weight_OC11), *seen.shape[2:])
    weight_OC, bias_O1 = weight_OC11.flatten(1), bias_O.to(x_NCHW.dtype).unsqueeze(1)
    for x_CP, y_OP, scale in zip(seen.flatten(2), y_NOHW.flatten(2), scale_N111.flatten().tolist(), strict=True):
        factor = scale or math.nan  # 0 is what overflow leaves, for which a product would not even look at x
        torch.addmm(bias_O1, weight_OC, x_CP, alpha=factor, out=y_OP)
    return y_NOHW


def pointwise_gradients(
    grad_NOHW: Tensor,
    x_NCHW: Tensor,
    scale_N111: Tensor,
    weight_OC11: Tensor,
    stride: tuple[int, int],
    by_input: bool,
    rectified: bool,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients of :func:`pointwise_conv` where ``scale = 1 / mean|x|``, through the scale as well.

    Args:
        grad_NOHW: dL/dy.
        x_NCHW: Input x, contiguous.
        scale_N111: s.
        weight_OC11: W.
        stride: Of the convolution.
        by_input: Whether the gradient by the input is wanted.
        rectified: Whether ``sign(x)`` may be taken as 1.

    Returns:
        dL/dx or None, dL/dW, and dL/db, each summed while the maps of a sample are near.
    """
    seen, weight_OC = seen_view(x_NCHW, stride).contiguous(), weight_OC11.flatten(1)
    by_weight_OC, product_OC = torch.zeros_like(weight_OC), torch.empty_like(weight_OC)
    by_bias_O = weight_OC.new_zeros(len(weight_OC))
    by_x_NCHW = torch.empty_like(x_NCHW) if by_input else None
    for n, scale in enumerate(scale_N111.flatten().tolist()):
        grad_OP = grad_NOHW[n].flatten(1)
        by_bias_O += grad_OP.sum(1)
        torch.mm(grad_OP, seen[n].flatten(1).mT, out=product_OC)
        by_weight_OC.add_(product_OC, alpha=scale)
        if by_x_NCHW is not None:
            by_scale = torch.dot(product_OC.flatten(), weight_OC.flatten()).item()
            through_scale = -(scale**2) * by_scale / x_NCHW[n].numel()
            x_CHW = None if rectified else x_NCHW[n]
            _gradient_by_input(grad_OP, x_CHW, scale, through_scale, weight_OC, stride, out_CHW=by_x_NCHW[n])
    return by_x_NCHW, by_weight_OC.view(weight_OC11.shape), by_bias_O


def _gradient_by_input(
    grad_OP: Tensor,
    x_CHW: Tensor | None,
    scale: float,
    through_scale: float,
    weight_OC: Tensor,
    stride: tuple[int, int],
    out_CHW: Tensor,
) -> None:
    """``dL/dx = s W^T dL/dy + dL/ds ds/dx`` of a sample, where ``ds/dx = -s^2 sign(x) / (C H W)``.

    Args:
        grad_OP: dL/dy.
        x_CHW: x, or None where its sign may be taken as 1.
        scale: s.
        through_scale: What ``sign(x)`` is multiplied by.
        weight_OC: W.
        stride: Of the convolution.
        out_CHW: Takes dL/dx.
    """
    factor = through_scale
    if x_CHW is None:
        out_CHW.fill_(through_scale)
        factor = 1.0
    else:
        torch.sign(x_CHW, out=out_CHW)
    if stride == (1, 1):
        out_CP = out_CHW.flatten(1)
        torch.addmm(out_CP, weight_OC.mT, grad_OP, beta=factor, alpha=scale, out=out_CP)
    else:
        seen = seen_view(out_CHW.mul_(factor) if factor != 1 else out_CHW, stride)
        seen.add_(torch.mm(weight_OC.mT, grad_OP).view(seen.shape), alpha=scale)


def seen_view(x: Tensor, stride: tuple[int, int]) -> Tensor:
    """The positions that a 1x1 convolution of this stride sees."""
    return x[..., :: stride[0], :: stride[1]]
