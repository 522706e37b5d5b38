"""Linear maps whose output is multiplied by a factor per sample, at the least cost of memory passes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ndpp_dense.ops.eager import needs_gradient, runs_eagerly
from ndpp_dense.ops.precision import autocasts

__all__ = ["scale_and_shift", "scaled_map"]

SINGLY = 1 << 15  # elements of a sample that are worth an operation of its own


def scaled_map(
    linear: Callable[[Tensor, Tensor | None], Tensor],
    x: Tensor,
    scale: Tensor | None,
    bias: Tensor,
    positions: int,
    expands: bool,
) -> Tensor:
    """``scale * linear(x) + bias``, scaled where least is to be read and written.

    Passes over memory and small operations are what the scale costs a CPU. Of large samples it is the output that is
    scaled, if no gradient is recorded: in place, and with the bias in one pass. Of others the smaller of input and
    output, and the bias is left to the linear map, which adds it for nothing, where that is possible: if the input is
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
    autocast = autocasts(x.device)
    eagerly = x.device.type == "cpu" and x.dtype == scale.dtype and not autocast and runs_eagerly(x)
    if eagerly and (torch.is_grad_enabled() or not _is_large(x, scale)):
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
        if constant and _is_large(y, scale):
            for sample, factor in zip(y, scale.flatten().tolist(), strict=True):
                torch.add(bias, sample, alpha=factor, out=sample)  # in one pass, which a tensor of factors cannot
            return y
        return (y.mul_(scale) if constant else y * scale).add_(bias)
    return torch.addcmul(bias, y, scale, out=y) if constant else torch.addcmul(bias, y, scale)


def _is_large(x: Tensor, scale: Tensor) -> bool:
    """Whether there are several samples, worth an operation each, that lie as such operations are fast."""
    return x.is_contiguous() and 1 < scale.numel() == len(x) and x.numel() >= SINGLY * len(x)
