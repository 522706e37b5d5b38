"""S of ``y = S X D w``: statistics of each sample alone, the same code in training and evaluation."""

from __future__ import annotations

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
        scale = _inverse_mean(absolute_sum(x, dims), prod([x.shape[d] for d in dims]))
        # In float16 neither the factor of a dark sample nor the output of a bright one is within range.
        return ((x * scale).to(x.dtype), None) if x.dtype == torch.float16 else (x, scale)
    with torch.autocast(x.device.type, enabled=False):
        values = x.to(statistics_dtype(x))
        centred = values - values.mean(dims, keepdim=True)
        variance = centred.square().mean(dims, keepdim=True)  # torch.var warns where there are no samples
        return (centred * torch.rsqrt(variance + STD_EPS)).to(x.dtype), None


def _inverse_mean(total: Tensor, count: int) -> Tensor:
    """``count / total``, and 1 where the mean is below the floor."""
    at_hand = total.device.type == "cpu" and runs_eagerly(total) and not needs_gradient(total)
    if at_hand and total.numel() > 0 and total.amin().item() >= FLOOR * count:
        return count / total  # one small operation for three; NaN is no less than anything
    magnitude = total / count
    return magnitude.masked_fill(magnitude < FLOOR, 1.0).reciprocal()
