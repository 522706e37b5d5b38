"""Folded layers in the part of Python that TorchScript compiles: the same to rounding, without the ways to be fast."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ndpp_dense.layers.functional import geometry
from ndpp_dense.layers.local_scale import ScriptableScale
from ndpp_dense.layers.scale_ramp import ScaleRamp

__all__ = ["scriptable"]


class _Scaled(nn.Module):
    """A plain layer on scaled samples."""

    def __init__(
        self, origin: nn.Module, plain: nn.Module, scale: ScriptableScale, activation: Callable[[Tensor], Tensor] | None
    ) -> None:
        super().__init__()
        self.origin = (origin,)  # kept: PyTorch tells modules by their addresses, which must not be used again
        self.scale, self.plain = scale, plain
        self.activation = nn.Identity() if activation is None else activation
        # Dimensions of a batch of samples; a linear layer has none without a batch.
        self.samples: int = 0 if isinstance(plain, nn.Linear) else getattr(plain, "weight").dim()  # noqa: B009

    def forward(self, x: Tensor) -> Tensor:
        """Maps what the layer maps."""
        alone = x.dim() < self.samples
        x = x.unsqueeze(0) if alone else x
        y = self.activation(self.plain(self.scale(x)))
        return y.squeeze(0) if alone else y


class _ByPhase(nn.Module):
    """A transposed convolution whose bias has a value per phase of the stride."""

    def __init__(self, plain: _ConvTransposeNd, bias: Tensor) -> None:
        super().__init__()
        self.plain = plain
        self.weight = plain.weight
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.paddings: list[int] = [int(padding) for padding in plain.padding]
        self.strides: list[int] = list(plain.stride)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(N, in_channels, *positions)`` to ``(N, out_channels, *positions)``."""
        y = self.plain(x)
        bias: Tensor = self.bias
        for axis, (padding, stride) in enumerate(zip(self.paddings, self.strides)):  # noqa: B905  (TorchScript)
            phase = (torch.arange(y.size(2 + axis), device=y.device) + padding) % stride
            bias = bias.index_select(1 + axis, phase)
        return y + bias


def scriptable(
    layer: nn.Module, scale: str, ramp: ScaleRamp | None, activation: Callable[[Tensor], Tensor] | None
) -> nn.Module:
    """A module that TorchScript compiles, with the layer's parameters.

    Args:
        layer: A folded layer.
        scale: Its local scale.
        ramp: How much of it there is; None where it is whole.
        activation: What is applied to its output: a module, or a function that TorchScript compiles too; or None.
    """
    if isinstance(layer, nn.Linear):
        plain: nn.Module = _with(layer, nn.Linear(layer.in_features, layer.out_features))
    else:
        kind = next(k for k in type(layer).__mro__ if k.__module__ == nn.Conv2d.__module__)
        transposed = issubclass(kind, _ConvTransposeNd)
        plain = _with(layer, kind(**geometry(cast("_ConvNd", layer)), bias=not transposed))
        plain = _ByPhase(plain, cast("Tensor", layer.bias)) if isinstance(plain, _ConvTransposeNd) else plain
    state = () if ramp is None else (float(ramp.share), float(ramp.reference))
    own = ScriptableScale(scale, -1 if isinstance(layer, nn.Linear) else 1, *state)
    return _Scaled(layer, plain, own, activation)


def _with(layer: nn.Module, plain: nn.Module) -> nn.Module:
    """The plain layer with the parameters of the folded one."""
    for name, parameter in layer.named_parameters():
        if name in plain._parameters and plain._parameters[name] is not None:
            plain._parameters[name] = deepcopy(parameter)
    return plain.eval()
