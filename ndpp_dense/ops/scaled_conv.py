"""Convolutions with a factor per sample; among them the one whose factor is the input's own scale."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ndpp_dense.ops.absolute_sum import is_rectified
from ndpp_dense.ops.eager import needs_gradient, runs_eagerly
from ndpp_dense.ops.pointwise_conv import (
    ConvGeometry,
    is_product,
    pointwise_conv,
    pointwise_gradients,
    seen_view,
    sees_part,
)
from ndpp_dense.ops.precision import autocasts, full_precision
from ndpp_dense.ops.scaled_map import scaled_map

__all__ = ["ScaledConv2d", "scaled_conv2d"]


def scaled_conv2d(
    x_NCHW: Tensor, scale_N111: Tensor | None, weight: Tensor, bias_O: Tensor, geometry: ConvGeometry
) -> Tensor:
    """``scale * conv2d(x, weight) + bias``, the scale treated as any other tensor.

    Args:
        x_NCHW: Input; N may be 0.
        scale_N111: Factor per sample, or None for 1.
        weight: As for ``conv2d``.
        bias_O: Of the output channels.
        geometry: Of the convolution.
    """
    if scale_N111 is not None and _as_product(x_NCHW, scale_N111, weight, bias_O, geometry):
        return pointwise_conv(x_NCHW, scale_N111, weight, bias_O, geometry.stride)

    def convolve(x: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, None if bias is None else bias.to(weight.dtype), *geometry)

    return scaled_map(convolve, x_NCHW, scale_N111, bias_O, positions=2, expands=_expands(x_NCHW, weight, geometry))


class ScaledConv2d(torch.autograd.Function):
    """``y_n = s_n conv2d(x_n, W) + b`` with ``s_n = 1 / mean|x_n|``, differentiated through s as well.

    The derivative by s needs ``<dL/dy, conv2d(x, W)>``. As convolution is linear this is ``<dL/dx, x> / s``, where
    dL/dx is taken at fixed s and is computed anyhow. So the output need not be kept, which halves what a layer keeps
    beside batch normalisation, and what follows may work in place. A sample that is too dark for a scale, with s = 1,
    is treated alike: its share of the gradient is below rounding.
    """

    @staticmethod
    def forward(
        ctx: Any, x_NCHW: Tensor, scale_N111: Tensor, weight: Tensor, bias_O: Tensor, geometry: ConvGeometry
    ) -> Tensor:
        """Computes y.

        Args:
            ctx: What is kept for the backward pass.
            x_NCHW: Input; N may be 0.
            scale_N111: s, as the local scale ``l1`` finds it; taken as a constant here.
            weight: As for ``conv2d``, in the data type of the input.
            bias_O: b.
            geometry: Of the convolution.
        """
        ctx.save_for_backward(x_NCHW, scale_N111, weight)
        ctx.rectified = is_rectified(x_NCHW)
        ctx.geometry = geometry
        ctx.bias_dtype = bias_O.dtype
        return scaled_conv2d(x_NCHW, scale_N111, weight, bias_O, geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, None, Tensor | None, Tensor | None, None]:
        """Gradients by input, weight and bias."""
        x, scale, weight = ctx.saved_tensors
        (grad,) = grad_outputs
        wanted = ctx.needs_input_grad
        by_input, by_weight, by_bias = wanted[0], wanted[2], wanted[3]
        if is_product(x, weight, ctx.geometry) and runs_eagerly(grad):
            arguments = (grad, x, scale, weight, ctx.geometry.stride, by_input, ctx.rectified)
            with full_precision(x.device):  # autocast may be on, though it was not around the forward pass
                grad_x, grad_weight, grad_bias = pointwise_gradients(*arguments)
            return grad_x, None, grad_weight, grad_bias.to(ctx.bias_dtype), None
        at_input, factor = _expands(x, weight, ctx.geometry), scale.to(grad.dtype)
        bias_too = by_bias and at_input and grad.dtype == ctx.bias_dtype
        grad_and_x = (grad, x * factor) if at_input else (grad * factor, x)  # the smaller side
        mask = by_input, by_weight, bias_too
        grad_x, grad_weight, grad_bias = _convolution_gradients(*grad_and_x, weight, ctx.geometry, mask)
        if by_bias and not bias_too:
            grad_bias = grad.sum((0, 2, 3), dtype=ctx.bias_dtype)
        if grad_x is not None:
            add = _add_gradient_by_sample if _values_fit_a_cache(grad_x, x) else _add_gradient_through_scale
            add(grad_x, x, scale, grad_and_x[1] if at_input else None, ctx.rectified)
        return grad_x, None, grad_weight, grad_bias, None


def _convolution_gradients(
    grad: Tensor, x_NCHW: Tensor, weight: Tensor, geometry: ConvGeometry, mask: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of ``conv2d(x, weight) + bias`` by input, weight and bias.

    Args:
        grad: dL/dy.
        x_NCHW: x.
        weight: As for ``conv2d``.
        geometry: Of the convolution.
        mask: Which gradients are wanted.
    """
    stride, padding, dilation, groups = geometry
    skips = sees_part(x_NCHW, weight, geometry) and runs_eagerly(grad)
    seen = seen_view(x_NCHW, stride).contiguous() if skips else x_NCHW
    grad_seen, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        grad,
        seen,
        weight,
        [len(weight)],
        (1, 1) if skips else stride,
        padding,
        dilation,
        False,
        (0, 0),
        groups,
        mask,
    )
    if grad_seen is None or not skips:
        return grad_seen, grad_weight, grad_bias
    grad_x = torch.zeros_like(x_NCHW)
    seen_view(grad_x, stride).copy_(grad_seen)
    return grad_x, grad_weight, grad_bias


def _as_product(x: Tensor, scale: Tensor, weight: Tensor, bias: Tensor, geometry: ConvGeometry) -> bool:
    """Whether no gradient is recorded, and products give what a convolution would."""
    recorded = needs_gradient(x, scale, weight, bias) or autocasts(x.device)
    return not recorded and is_product(x, weight, geometry)


def _expands(x_NCHW: Tensor, weight: Tensor, geometry: ConvGeometry) -> bool:
    """Whether the output is no smaller than the input."""
    return len(weight) >= x_NCHW.shape[1] * prod(geometry.stride)


def _values_fit_a_cache(grad_x: Tensor, x: Tensor) -> bool:
    """Whether the gradient through the scale is best taken sample by sample: on the CPU, in full precision."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and runs_eagerly(grad_x, x)


def _add_gradient_through_scale(
    grad_x_NCHW: Tensor, x_NCHW: Tensor, scale_N111: Tensor, scaled_NCHW: Tensor | None, rectified: bool
) -> None:
    """Adds ``<dL/dx_n, x_n> / s_n * ds_n/dx_n`` to dL/dx, where ``ds/dx = -s^2 sign(x) / (C H W)``.

    Args:
        grad_x_NCHW: dL/dx at fixed s; by ``s x`` if that was the convolution's input.
        x_NCHW: x.
        scale_N111: s.
        scaled_NCHW: ``s x`` if the input was scaled, None if the output was.
        rectified: Whether ``sign(x)`` may be taken as 1.
    """
    share = -1 / max(1, x_NCHW.shape[1:].numel())
    along = grad_x_NCHW * (x_NCHW if scaled_NCHW is None else scaled_NCHW)
    along = along.sum((1, 2, 3), keepdim=True, dtype=scale_N111.dtype)
    along = (along * scale_N111 if scaled_NCHW is None else along).to(x_NCHW.dtype)
    if rectified:
        grad_x_NCHW.add_(along, alpha=share)
    else:
        grad_x_NCHW.addcmul_(torch.sign(x_NCHW), along, value=share)
    if scaled_NCHW is not None:
        grad_x_NCHW.mul_(scale_N111.to(x_NCHW.dtype))


def _add_gradient_by_sample(
    grad_x_NCHW: Tensor, x_NCHW: Tensor, scale_N111: Tensor, scaled_NCHW: Tensor | None, rectified: bool
) -> None:
    """The same sample by sample: what is read twice is still in the cache the second time, a third of the time."""
    factor = -scale_N111 / x_NCHW.shape[1:].numel()
    in_memory = (1, 2, 0) if x_NCHW.is_contiguous(memory_format=torch.channels_last) else (0, 1, 2)
    sign_CHW = torch.empty_like(x_NCHW[0]) if len(x_NCHW) else None
    for n, (grad_CHW, x_CHW) in enumerate(zip(grad_x_NCHW, x_NCHW, strict=True)):
        if scaled_NCHW is not None:
            grad_CHW.mul_(scale_N111[n])
        along = torch.dot(grad_CHW.permute(in_memory).reshape(-1), x_CHW.permute(in_memory).reshape(-1))
        if rectified:
            grad_CHW.add_(factor[n] * along)
        else:
            grad_CHW.addcmul_(torch.sign(x_CHW, out=sign_CHW), factor[n] * along)
