"""S of ``y = S X D w``: statistics of each sample alone, the same code in training and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ndpp_dense.ops.absolute_sum import absolute_sum
from ndpp_dense.ops.eager import differentiates_by_hand, is_fake, needs_gradient, runs_eagerly, scalar
from ndpp_dense.ops.precision import statistics_dtype, without_autocast

__all__ = [
    "FLOOR",
    "LOCAL_SCALES",
    "STD_EPS",
    "LocalScale",
    "ScriptableScale",
    "inverse_magnitude",
    "local_scale",
    "times_scale",
]

FLOOR = 1e-6  # a sample with less than this mean absolute value is taken as empty and left unscaled
STD_EPS = 1e-5  # as in layer normalisation

Dims = tuple[int, ...]  # dimensions that one sample spans


@dataclass(frozen=True)
class LocalScale:
    """How the scale of every sample is removed.

    Attributes:
        apply: Maps the input (any shape, possibly with no samples) and the dimensions that one sample spans to the
            input of the linear map, and to the factor for its *output* (shape of the input with ones at these
            dimensions, in the statistics' data type), or None.
        sums: Maps the same to what is removed, summed over samples: magnitudes, centres, number of samples,
            ``(3,)`` in float64. ``x = magnitude * scaled x + centre``.
        foldable: Whether nothing is left to do at inference, so that a layer folds into a plain one.
        ramps: Whether it can come in by steps, see ``WhiteningConfig.scale_steps``.
        fuses: Whether the factor is ``1 / mean|x|``, and can be differentiated together with a convolution.
    """

    apply: Callable[[Tensor, Dims], tuple[Tensor, Tensor | None]]
    sums: Callable[[Tensor, Dims], Tensor]
    foldable: bool = False
    ramps: bool = False
    fuses: bool = False


def local_scale(name: str) -> LocalScale:
    """Looks a local scale up by name.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in LOCAL_SCALES:
        raise ValueError(f"Unknown local_scale {name!r}. Choices: {', '.join(map(repr, LOCAL_SCALES))}.")
    return LOCAL_SCALES[name]


def _divide_by_magnitude(x: Tensor, dims: Dims) -> tuple[Tensor, Tensor | None]:
    return times_scale(x, inverse_magnitude(x, dims))


def inverse_magnitude(x: Tensor, dims: Dims) -> Tensor:
    """One over the mean absolute value of every sample, 1 where that is below the floor.

    Args:
        x: Any shape.
        dims: That one sample spans; they are ones in the result.
    """
    return _inverse_mean(absolute_sum(x, dims), prod([x.shape[d] for d in dims]))


def times_scale(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor | None]:
    """Convolution is linear, zero padding included: the factor goes to the output, and the input need not be copied.

    Returns:
        As :attr:`LocalScale.apply`.
    """
    # In float16 neither the factor of a dark sample nor the output of a bright one is within range.
    return ((x * scale).to(x.dtype), None) if x.dtype == torch.float16 else (x, scale)


def _sums_of_magnitudes(x: Tensor, dims: Dims) -> Tensor:
    magnitude = torch.linalg.vector_norm(x, 1, dims, dtype=torch.float64) / prod(x.shape[dim] for dim in dims)
    magnitude = magnitude[magnitude >= FLOOR]  # an empty sample is not scaled, and its size says nothing
    return torch.stack([magnitude.sum(), magnitude.new_zeros(()), magnitude.new_tensor(len(magnitude))])


def _standardize(x: Tensor, dims: Dims) -> tuple[Tensor, Tensor | None]:
    with without_autocast(x.device):
        values = x.to(statistics_dtype(x))
        centred = values - values.mean(dims, keepdim=True)
        variance = centred.square().mean(dims, keepdim=True)  # torch.var warns where there are no samples
        return (centred * torch.rsqrt(variance + STD_EPS)).to(x.dtype), None


def _sums_of_deviations(x: Tensor, dims: Dims) -> Tensor:
    values = x.double()
    centre = values.mean(dims)
    deviation = ((values.square().mean(dims) - centre.square()).clamp(min=0) + STD_EPS).sqrt()
    return torch.stack([deviation.sum(), centre.sum(), deviation.new_tensor(deviation.numel())])


def _leave(x: Tensor, dims: Dims) -> tuple[Tensor, Tensor | None]:
    return x, None


def _sums_of_ones(x: Tensor, dims: Dims) -> Tensor:
    return torch.tensor([1, 0, 1], dtype=torch.float64, device=x.device)


LOCAL_SCALES = {
    "l1": LocalScale(_divide_by_magnitude, _sums_of_magnitudes, ramps=True, fuses=True),
    "std": LocalScale(_standardize, _sums_of_deviations),
    "none": LocalScale(_leave, _sums_of_ones, foldable=True),
}


def _inverse_mean(total: Tensor, count: int) -> Tensor:
    """``count / total``, and 1 where the mean is not above the floor."""
    on_cpu = total.device.type == "cpu"
    bright = on_cpu and runs_eagerly(total) and not needs_gradient(total) and total.numel() > 0
    bright = bright and total.amin().item() > FLOOR * count
    total = total if bright else F.threshold(total, FLOOR * count, count)  # which lets NaN through
    if on_cpu or is_fake(total) or not differentiates_by_hand(total):
        return count / total
    return torch.div(scalar(count, total.dtype), total)  # one operation of a device, where a Python number takes two


class ScriptableScale(nn.Module):
    """A local scale in the part of Python that TorchScript compiles: the same to rounding.

    Args:
        name: One of ``LOCAL_SCALES``.
        first: Of the dimensions that a sample spans; -1 for the rows of a linear layer's input.
        share: Of a scale that comes in by steps, see :class:`ndpp_dense.layers.scale_ramp.ScaleRamp`.
        reference: Likewise.
    """

    def __init__(self, name: str, first: int, share: float = 1.0, reference: float = 1.0) -> None:
        super().__init__()
        self.name, self.first = name, first
        self.share, self.constant = share, reference ** (share - 1)
        self.floor, self.eps = FLOOR, STD_EPS

    def forward(self, x: Tensor) -> Tensor:
        """Maps the input to that of the linear map."""
        dims = [-1] if self.first < 0 else list(range(self.first, x.dim()))
        values = x if x.dtype == torch.float64 else x.float()
        if self.name == "l1":
            size = values.abs().mean(dims, keepdim=True)
            size = torch.where(size < self.floor, torch.ones_like(size), size)
            values = values / size.pow(self.share) * self.constant
        elif self.name == "std":
            values = values - values.mean(dims, keepdim=True)
            values = values * torch.rsqrt((values * values).mean(dims, keepdim=True) + self.eps)
        return values.to(x.dtype)
