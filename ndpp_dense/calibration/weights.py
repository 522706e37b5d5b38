"""The arithmetic of calibration, in float64: a norm into a plain layer, a plain layer into an ND++ layer."""

from __future__ import annotations

from copy import deepcopy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from ndpp_dense.conversion.probe import frozen_norm_eps, is_norm
from ndpp_dense.layers.base import NDLayer
from ndpp_dense.layers.conv_transpose import NDConvTranspose
from ndpp_dense.layers.functional import FEATURE_DIMS, sample_dims
from ndpp_dense.layers.linear import NDLinear
from ndpp_dense.layers.local_scale import local_scale

__all__ = [
    "SampleScale",
    "average_scale",
    "fit",
    "fold_norm",
    "folding_error",
    "is_foldable",
    "normalize",
    "scale_sums",
]

CHECKED_SAMPLES = 2  # of a batch, in float64


class SampleScale(NamedTuple):
    """What local scale takes out of its input, averaged over samples: ``x = magnitude * scaled x + centre``."""

    magnitude: Tensor
    centre: Tensor


def is_foldable(norm: nn.Module) -> bool:
    """Whether a norm is a fixed affine map per channel in evaluation: a (frozen) batch norm with running statistics."""
    group = isinstance(norm, nn.GroupNorm | _InstanceNorm)
    return is_norm(norm) and not group and norm.running_mean is not None and norm.running_var is not None


def normalize(norm: nn.Module, y: Tensor) -> Tensor:
    """What a foldable norm does to the output of a layer, without the activation that it may carry with it (timm)."""
    mean, variance, weight, bias = norm.running_mean, norm.running_var, norm.weight, norm.bias
    return F.batch_norm(y, mean, variance, weight, bias, False, 0.0, frozen_norm_eps(norm))  # type: ignore[arg-type]


@torch.no_grad()
def fold_norm(layer: nn.Module, norm: nn.Module | None) -> tuple[Tensor, Tensor]:
    """Weight and bias, in float64, of the plain layer that does the work of a layer and its norm.

    Args:
        layer: A convolution of PyTorch's, transposed or not, or ``nn.Linear``; or a subclass.
        norm: A foldable norm after it, or None.
    """
    weight: Tensor = layer.weight.detach().double()  # type: ignore[operator]
    outputs = weight.shape[1] * layer.groups if isinstance(layer, _ConvTransposeNd) else weight.shape[0]
    bias = weight.new_zeros(outputs) if layer.bias is None else layer.bias.detach().double()  # type: ignore[operator]
    if norm is None:
        return weight, bias
    mean: Tensor = norm.running_mean.double()  # type: ignore[operator]
    variance: Tensor = norm.running_var.double()  # type: ignore[operator]
    scale = torch.rsqrt(variance + frozen_norm_eps(norm))
    scale = scale if norm.weight is None else scale * norm.weight.double()  # type: ignore[operator]
    bias = (bias - mean) * scale  # type: ignore[operator]
    bias = bias if norm.bias is None else bias + norm.bias.double()  # type: ignore[operator]
    if isinstance(layer, _ConvTransposeNd):  # (in, outputs of a group, ...): the group is found from the input
        grouped = weight.unflatten(0, (layer.groups, -1)) * scale.view(layer.groups, 1, -1, *[1] * (weight.dim() - 2))
        return grouped.flatten(0, 1), bias
    return weight * scale.view(-1, *[1] * (weight.dim() - 1)), bias


@torch.no_grad()
def folding_error(layer: nn.Module, norm: nn.Module, rest: nn.Module | None, x: Tensor) -> float:
    """How far the folded layer is from layer and norm, on a batch: root mean square, relative.

    Args:
        layer: The original layer.
        norm: Its norm; a child of the layer or a module of its own.
        rest: What conversion leaves in place of a norm of its own (its activation); None if it is a child.
        x: Input of the layer; some samples of it are used.
    """
    x = x[:CHECKED_SAMPLES].double()
    original, plain = deepcopy(layer).double(), deepcopy(layer).double()
    weight, bias = fold_norm(layer, norm)
    plain.weight, plain.bias = nn.Parameter(weight), nn.Parameter(bias)
    if rest is None:
        plain.norm = None  # type: ignore[assignment]
        expected, got = original(x), plain(x)
    else:
        expected, got = deepcopy(norm).double()(original(x)), deepcopy(rest)(plain(x))
    return _relative_error(got, expected)


@torch.no_grad()
def scale_sums(layer: NDLayer, x: Tensor) -> Tensor:
    """What local scale takes out of its input, summed over samples (rows of a linear layer's input).

    Args:
        layer: The layer that gets ``x``.
        x: Its input.

    Returns:
        Sum of magnitudes, sum of centres and number of samples, in float64.
    """
    dims = FEATURE_DIMS if isinstance(layer, NDLinear) else sample_dims(x)
    return local_scale(layer.config.local_scale).sums(x, dims)


def average_scale(sums: Tensor) -> SampleScale:
    """The averages from what :func:`scale_sums` gave in all; one and zero where every sample was empty."""
    magnitude, centre, count = sums
    return SampleScale(torch.where(count > 0, magnitude / count, 1.0), centre / count.clamp(min=1))


@torch.no_grad()
def fit(layer: NDLayer, weight: Tensor, bias: Tensor, scale: SampleScale) -> float:
    """Sets an ND++ layer's parameters so that it computes ``weight x + bias`` for a sample of average scale.

    With the layer's stored D and mean: ``W D = magnitude * weight`` and ``b - W D mean = bias + centre * sum(weight)``.

    Args:
        layer: Its statistics are estimated already.
        weight: Of the plain layer, float64.
        bias: Likewise.
        scale: Average of what local scale takes out; magnitude 1 and centre 0 without it.

    Returns:
        Relative error of the folded weight that the layer ends up with: what its data type leaves.
    """
    if isinstance(layer, NDConvTranspose) and any(step != 1 for step in layer.stride):
        # W D mean differs between the phases of the stride, and they share one bias: without a mean all are exact.
        layer.whitening.load({"running_mean": torch.zeros_like(layer.whitening.running_mean)})
    exact = deepcopy(layer).double()  # D is inverted and the norm folded in float64
    mean, whitening = exact.whitening.running_mean, exact.whitening.running_whitening
    exact.bias = nn.Parameter(torch.zeros_like(bias))
    exact.weight.copy_(weight)
    identity = torch.eye(mean.shape[1], dtype=mean.dtype, device=mean.device).expand_as(whitening)
    centred = _per_output(exact.whitened_parameters(-scale.centre * torch.ones_like(mean), identity)[1])
    unwhitened, _ = exact.whitened_parameters(torch.zeros_like(mean), torch.linalg.inv(whitening))
    exact.weight.copy_(unwhitened * scale.magnitude)
    minus_mean = exact.folded_parameters()[1]
    layer.weight.copy_(exact.weight)
    layer.bias.copy_(bias + centred - _per_output(minus_mean))  # type: ignore[union-attr]
    return _relative_error(layer.folded_parameters()[0].double(), weight * scale.magnitude)


def _per_output(shift: Tensor) -> Tensor:
    """One value per output channel; a transposed convolution has one per phase of its stride."""
    return shift.flatten(1).mean(1) if shift.dim() > 1 else shift


def _relative_error(got: Tensor, expected: Tensor) -> float:
    """Root mean square, relative."""
    if expected.shape != got.shape:
        return float("inf")
    return float((got - expected).norm() / expected.norm().clamp(min=torch.finfo(expected.dtype).tiny))
