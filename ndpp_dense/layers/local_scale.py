"""S of ``y = S X D w``: statistics of each sample alone, the same code in training and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from ndpp_dense.ops.absolute_sum import absolute_sum
from ndpp_dense.ops.eager import needs_gradient, runs_eagerly
from ndpp_dense.ops.precision import statistics_dtype

FLOOR = 1e-6  # a sample with less than this mean absolute value is taken as empty and left unscaled
STD_EPS = 1e-5  # as in layer normalisation


def local_statistics(x: Tensor, kind: str, dims: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
    """Removes (or measures) the scale of every sample.

    ``"l1"`` returns the input as it is with the factor ``1 / mean|x|``, to be applied to the layer's *output*:
    convolution is linear, zero padding included, so the input need not be copied. Only float16 input is scaled itself.

    Args:
        x: Input; any shape, possibly with no samples.
        kind: ``"l1"``, ``"std"`` or ``"none"``.
        dims: Dimensions that one sample spans.

    Returns:
        The input of the linear map, and the factor for its output (shape of ``x`` with ones at ``dims``, in the
        statistics' data type) or None.
    """
    if kind == "none":
        return x, None
    if kind == "l1":
        magnitude = absolute_sum(x, dims) / prod([x.shape[d] for d in dims])
        scale = magnitude.masked_fill(magnitude < FLOOR, 1.0).reciprocal()
        # In float16 neither the factor of a dark sample nor the output of a bright one is within range.
        return ((x * scale).to(x.dtype), None) if x.dtype == torch.float16 else (x, scale)
    with torch.autocast(x.device.type, enabled=False):
        values = x.to(statistics_dtype(x))
        centred = values - values.mean(dims, keepdim=True)
        variance = centred.square().mean(dims, keepdim=True)  # torch.var warns where there are no samples
        return (centred * torch.rsqrt(variance + STD_EPS)).to(x.dtype), None


def scaled_map(
    linear: Callable[[Tensor, Tensor | None], Tensor],
    x: Tensor,
    scale: Tensor | None,
    bias: Tensor,
    positions: int,
    expands: bool,
) -> Tensor:
    """``scale * linear(x) + bias``, scaled where least is to be read and written.

    Passes over memory and small operations are what the scale costs a CPU. So the smaller of input and output is
    scaled, and the bias is left to the linear map, which adds it for nothing, where that is possible: if the input is
    scaled, or, with one sample, as ``scale * linear(x, bias / scale)``.

    Args:
        linear: Maps an input and a bias to the output; its result is not used elsewhere.
        x: Input.
        scale: Factor per sample, or None for 1.
        bias: Of the output's channels.
        positions: Dimensions of the output behind its channels.
        expands: Whether the output is no smaller than the input.
    """
    if scale is None:
        return linear(x, bias)
    autocast = torch.is_autocast_enabled(x.device.type)
    if x.device.type == "cpu" and x.dtype == scale.dtype and not autocast and runs_eagerly(x):
        if expands:
            return linear(x * scale, bias)
        if scale.numel() == 1:
            y = linear(x, bias / scale.flatten())
            return y * scale if needs_gradient(y, scale) else y.mul_(scale)
    return scale_and_shift(linear(x, None), scale, bias.view(-1, *[1] * positions))


def scale_and_shift(y: Tensor, scale: Tensor | None, bias: Tensor) -> Tensor:
    """``scale * y + bias`` in the data type of ``y``, in place where no gradient is needed.

    Args:
        y: Output of a linear map, not used elsewhere.
        scale: Factor per sample, broadcastable to ``y``, or None for 1.
        bias: Broadcastable to ``y``.
    """
    bias = bias.to(y.dtype)
    if scale is None:
        return y + bias
    scale = scale.to(y.dtype)
    if not runs_eagerly(y):
        return torch.addcmul(bias, y, scale)
    constant = not needs_gradient(y, scale, bias)
    full = y.dtype in (torch.float32, torch.float64)  # in half precision the product would be rounded once more
    if y.device.type == "cpu" and full and y.stride(-1) == 1 and bias.shape[-1] == 1:
        # addcmul is not vectorised where both factor and bias are constant along the memory
        return (y.mul_(scale) if constant else y * scale).add_(bias)
    return torch.addcmul(bias, y, scale, out=y) if constant else torch.addcmul(bias, y, scale)
