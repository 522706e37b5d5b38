"""What ND++ is measured against, where no library has it: norms after their papers, and ND++ the obvious way.

Shape suffixes: see ``ndpp_dense.ops.moments``.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from ndpp_dense import NDConv2d, WhiteningConfig, convert_to_ndpp
from ndpp_dense.conversion.module_surgery import replace_modules
from ndpp_dense.layers.base import nd_layers
from ndpp_dense.layers.statistics.sampling import MIN_ROWS_PER_COLUMN
from ndpp_dense.layers.statistics.steps import unwatch_steps
from ndpp_dense.ops.collectives import sum_over_ranks, world_size
from ndpp_dense.ops.precision import statistics_dtype, without_autocast


class IterNorm2d(nn.Module):
    """Iterative normalisation: whitens groups of channels by Newton's iteration (Huang et al., CVPR 2019, Algorithm 1).

    Args:
        channels: Of the input.
        group: Channels whitened together, at most; the paper's default for wide layers.
        num_iters: Iterations, >= 1.
        eps: Added to the covariance's diagonal.
        momentum: Weight of a step in the running mean and whitening matrix.
    """

    running_mean: Tensor
    running_whitening: Tensor

    def __init__(
        self, channels: int, group: int = 64, num_iters: int = 5, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__()
        self.group = math.gcd(channels, group)
        self.num_iters, self.eps, self.momentum = num_iters, eps, momentum
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        groups = channels // self.group
        self.register_buffer("running_mean", torch.zeros(groups, self.group, 1))
        self.register_buffer("running_whitening", torch.eye(self.group).repeat(groups, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(N, C, H, W)`` to the same shape."""
        n, c, h, w = x.shape
        rows_GDR = x.transpose(0, 1).reshape(c // self.group, self.group, n * h * w)
        mean, whitening = self.running_mean, self.running_whitening
        if self.training:
            with without_autocast(x.device):
                mean, whitening = self._statistics(rows_GDR.float())
        white = whitening.to(x.dtype) @ (rows_GDR - mean.to(x.dtype))
        white = white.view(c, n, h, w).transpose(0, 1)
        return white * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)

    def _statistics(self, rows_GDR: Tensor) -> tuple[Tensor, Tensor]:
        mean = rows_GDR.mean(-1, keepdim=True)
        centred = rows_GDR - mean
        identity = torch.eye(self.group, device=rows_GDR.device)
        cov = centred @ centred.transpose(1, 2) / rows_GDR.shape[-1] + self.eps * identity
        trace = cov.diagonal(dim1=1, dim2=2).sum(-1).view(-1, 1, 1)
        cov = cov / trace
        p = identity.expand_as(cov)
        for _ in range(self.num_iters):
            p = 1.5 * p - 0.5 * (p @ p @ p @ cov)
        whitening = p / trace.sqrt()
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_whitening.lerp_(whitening, self.momentum)
        return mean, whitening


class SummedBatchNorm2d(nn.BatchNorm2d):
    """Synchronised batch norm by one differentiable sum over ranks: ``nn.SyncBatchNorm`` refuses CPUs.

    What travels is as much as there: sums and squares of each channel and the count, forward and backward.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Maps ``(N, C, H, W)`` to the same shape."""
        if not self.training or world_size() == 1:
            return super().forward(input)
        count = input.new_full((1,), input.numel() / input.shape[1])
        sums = torch.cat([input.sum((0, 2, 3)), input.square().sum((0, 2, 3)), count])
        sums = sum_over_ranks(sums)
        mean, square = sums[:-1].view(2, -1) / sums[-1]
        factor = torch.rsqrt(square - mean.square() + self.eps) * self.weight
        shift = self.bias - mean * factor
        return input * factor.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


class UnfoldNDConv2d(NDConv2d):
    """ND++'s Algorithm 1 the obvious way, line by line: scaled input, ``F.unfold``, autograd through the iterations.

    For batch statistics, shared blocks and one process, as the paper preset has them.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(N, in_channels, H, W)`` to ``(N, out_channels, H', W')``."""
        x = x / x.abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-6)
        mean, whitening = self.whitening.running_mean, self.whitening.running_whitening
        if self.training and not self.whitening.frozen:
            with without_autocast(x.device):
                mean, whitening = self._solved(self._rows(x.to(statistics_dtype(x))))
        weight, bias = self.whitened_parameters(mean, whitening)
        weight, bias = weight.to(x.dtype), bias.to(x.dtype)
        padding = cast("tuple[int, int]", self.padding)
        return self._activate(F.conv2d(x, weight, bias, self.stride, padding, self.dilation, self.groups))

    def _rows(self, x: Tensor) -> Tensor:
        """Data matrix ``(D, R)``, of a denser sample where it has too few rows."""
        dim, stride = self.whitening.running_mean.shape[1], self.config.sampling_stride
        rows = self._sampled(x, dim, stride)
        enough = MIN_ROWS_PER_COLUMN * dim
        if stride > 1 and rows.shape[1] < enough:
            rows = self._sampled(x, dim, max(1, int(stride * math.sqrt(rows.shape[1] / enough))))
        return rows

    def _sampled(self, x: Tensor, dim: int, sampling: int) -> Tensor:
        stride = tuple(step * sampling for step in self.stride)
        columns = F.unfold(x, self.kernel_size, self.dilation, cast("tuple[int, int]", self.padding), stride)
        return columns.view(len(x), -1, dim, columns.shape[-1]).permute(2, 0, 1, 3).reshape(dim, -1)

    def _solved(self, rows_DR: Tensor) -> tuple[Tensor, Tensor]:
        mean = rows_DR.mean(1, keepdim=True)
        centred = rows_DR - mean
        identity = torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
        cov = centred @ centred.T / rows_DR.shape[1] + self.config.eps * identity
        scale = 1.5 / torch.linalg.matrix_norm(cov)
        d, m = identity, cov * scale
        for _ in range(self.config.num_iters):
            step = 1.5 * identity - 0.5 * m
            d, m = d @ step, step @ step @ m
        mean, d = mean.T, (d * scale.sqrt()).unsqueeze(0)
        with torch.no_grad():
            self.whitening.running_mean.lerp_(mean, self.config.momentum)
            self.whitening.running_whitening.lerp_(d, self.config.momentum)
        return mean, d


def obvious(model: nn.Module) -> nn.Module:
    """Makes the ND++ convolutions of a model work the obvious way; returns the model."""
    for module in model.modules():
        if type(module) is NDConv2d:
            module.__class__ = UnfoldNDConv2d
    return model


def replace_norms(model: nn.Module, make: Callable[[int], nn.Module]) -> nn.Module:
    """Puts ``make(channels)`` in the place of every batch norm; returns the model."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    replace_modules(model, {norm: make(norm.num_features) for norm in norms})
    return model


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """Folds every batch norm into the convolution that stands before it among its siblings; returns the model.

    Raises:
        ValueError: A batch norm has no convolution before it.
    """
    model.eval()
    for parent in list(model.modules()):
        before = ""
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                if not before:
                    raise ValueError(f"fold_batch_norms: no convolution before {name!r} in {type(parent).__name__}")
                setattr(parent, before, fuse_conv_bn_eval(getattr(parent, before), child))
                setattr(parent, name, nn.Identity())
            before = name if isinstance(child, nn.Conv2d) else ""
    return model.requires_grad_(False)


def whitened(model: nn.Module, preset: str = "fast", unfold: bool = False, **fields: Any) -> nn.Module:
    """Converts a model to ND++, a preset with other ``fields``; ``unfold`` makes convolutions work the obvious way."""
    config = WhiteningConfig.paper("imagenet") if preset == "paper" else WhiteningConfig.fast("imagenet")
    config = config.override(fields)
    convert_to_ndpp(model, config)
    if config.period > 1:
        _deal_out(model, config.period)
    return obvious(model) if unfold else model


def _deal_out(model: nn.Module, period: int) -> None:
    """Lets each step update as many layers of every matrix size: then the median step costs what steps do on average.

    In training they all update together; see :class:`ndpp_dense.layers.statistics.schedule.UpdateInterval`.
    """
    unwatch_steps(model)  # which would bring them together again
    layers = sorted((layer for _, layer in nd_layers(model)), key=lambda layer: layer.whitening.running_mean.shape)
    for place, layer in enumerate(layers):
        if layer.whitening.turns is not None:
            layer.whitening.turns.load_state_dict({"phase": torch.tensor(place % period)})
