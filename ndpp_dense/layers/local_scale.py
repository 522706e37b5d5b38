"""S of ``y = S X D w``: statistics of each sample alone, the same code in training and evaluation."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

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
    with torch.autocast(x.device.type, enabled=False):
        if kind == "l1":
            total = torch.linalg.vector_norm(x, 1, dims, keepdim=True, dtype=statistics_dtype(x))
            magnitude = total / prod(x.shape[d] for d in dims)
            scale = torch.where(magnitude < FLOOR, 1.0, 1 / magnitude.clamp(min=FLOOR))
            # In float16 neither the factor of a dark sample nor the output of a bright one is within range.
            return ((x * scale).to(x.dtype), None) if x.dtype == torch.float16 else (x, scale)
        values = x.to(statistics_dtype(x))
        centred = values - values.mean(dims, keepdim=True)
        variance = centred.square().mean(dims, keepdim=True)  # torch.var warns where there are no samples
        return (centred * torch.rsqrt(variance + STD_EPS)).to(x.dtype), None


def scale_and_shift(y: Tensor, scale: Tensor | None, bias: Tensor) -> Tensor:
    """``scale * y + bias`` in the data type of ``y``, in one pass.

    Args:
        y: Output of a linear map.
        scale: Factor per sample, broadcastable to ``y``, or None for 1.
        bias: Broadcastable to ``y``.
    """
    bias = bias.to(y.dtype)
    return y + bias if scale is None else torch.addcmul(bias, y, scale.to(y.dtype))
