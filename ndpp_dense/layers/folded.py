"""Plain layers that ND++ layers fold into: constant weights, and the per-sample scale that no constant can hold."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from torch import Tensor, nn

from ndpp_dense.layers.base import NDLayer
from ndpp_dense.layers.conv import NDConv2d
from ndpp_dense.layers.conv_transpose import NDConvTranspose2d
from ndpp_dense.layers.functional import (
    FEATURE_DIMS,
    SAMPLE_DIMS,
    geometry,
    pad_input,
    scaled_conv2d,
    scaled_conv_transpose2d,
    scaled_linear,
)
from ndpp_dense.layers.linear import NDLinear
from ndpp_dense.layers.local_scale import local_scale
from ndpp_dense.layers.pass_through import LAST_OUTPUT, remember_output
from ndpp_dense.layers.scale_ramp import ScaleRamp

__all__ = ["FoldedConv2d", "FoldedConvTranspose2d", "FoldedLinear", "fold_layer"]


class _Folded(nn.Module):
    """Takes geometry and folded parameters over from an ND++ layer."""

    weight: nn.Parameter
    bias: nn.Parameter
    local_scale: str
    scale_ramp: ScaleRamp | None
    activation: Callable[[Tensor], Tensor] | None

    def _take(self, layer: NDLayer) -> None:
        weight, bias = layer.folded_parameters()
        dtype = layer.weight.dtype
        self.weight = nn.Parameter(layer.laid_out(weight.detach()), requires_grad=False)
        self.bias = nn.Parameter(bias.detach().to(dtype), requires_grad=False)
        self.local_scale = layer.config.local_scale
        whole = layer.scale_ramp is None or layer.scale_ramp.complete
        self.scale_ramp = None if whole else deepcopy(layer.scale_ramp)
        self.activation = layer.activation
        self.eval()

    def _scaled(self, x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        return (local_scale(self.local_scale).apply if self.scale_ramp is None else self.scale_ramp)(x, dims)

    def _activate(self, y: Tensor) -> Tensor:
        return remember_output(self, y if self.activation is None else self.activation(y))

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out of pickles and copies what belongs to the last forward pass."""
        return {name: value for name, value in self.__dict__.items() if name != LAST_OUTPUT}

    def extra_repr(self) -> str:
        """The plain layer's line, with the kind of local scale."""
        return f"{super().extra_repr()}, local_scale={self.local_scale}"


class FoldedConv2d(_Folded, nn.Conv2d):
    """A convolution of the scaled input: ``S x * W' + b'``."""

    def __init__(self, layer: NDConv2d) -> None:
        nn.Conv2d.__init__(self, **geometry(layer), device="meta")
        self._take(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(N, in_channels, H, W)`` to ``(N, out_channels, H', W')``."""
        x, scale = self._scaled(x, SAMPLE_DIMS)
        x, padding = pad_input(self, x)
        y = scaled_conv2d(self, x, scale, self.weight, self.bias, padding)
        return self._activate(y)


class FoldedConvTranspose2d(_Folded, nn.ConvTranspose2d):
    """A transposed convolution of the scaled input; its bias ``(out, sh, sw)`` has a value per phase of the stride."""

    def __init__(self, layer: NDConvTranspose2d) -> None:
        nn.ConvTranspose2d.__init__(self, **geometry(layer), device="meta")
        self._take(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(N, in_channels, H, W)`` to ``(N, out_channels, H', W')``."""
        x, scale = self._scaled(x, SAMPLE_DIMS)
        y = scaled_conv_transpose2d(self, x, scale, self.weight, self.bias)
        return self._activate(y)


class FoldedLinear(_Folded, nn.Linear):
    """A linear map of the scaled rows: ``S x W'^T + b'``."""

    def __init__(self, layer: NDLinear) -> None:
        nn.Linear.__init__(self, layer.in_features, layer.out_features, device="meta")
        self._take(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(..., in_features)`` to ``(..., out_features)``."""
        x, scale = self._scaled(x, FEATURE_DIMS)
        y = scaled_linear(x, scale, self.weight, self.bias, self.weight.dtype)
        return self._activate(y)


def fold_layer(layer: NDLayer) -> nn.Module:
    """The folded layer; an ordinary ``nn.Conv2d`` or ``nn.Linear`` where nothing but constants is left.

    Args:
        layer: An ND++ layer; its stored statistics are used.
    """
    constant = local_scale(layer.config.local_scale).foldable and layer.activation is None
    if isinstance(layer, NDConvTranspose2d):
        return FoldedConvTranspose2d(layer)
    if isinstance(layer, NDConv2d):
        folded = FoldedConv2d(layer)
        return _with_parameters(nn.Conv2d(**geometry(layer), device="meta"), folded) if constant else folded
    if isinstance(layer, NDLinear):
        folded = FoldedLinear(layer)
        return (
            _with_parameters(nn.Linear(layer.in_features, layer.out_features, device="meta"), folded)
            if constant
            else folded
        )
    raise TypeError(f"cannot fold a {type(layer).__name__}: NDConv2d, NDConvTranspose2d or NDLinear is needed")


def _with_parameters(plain: nn.Module, folded: nn.Module) -> nn.Module:
    plain.load_state_dict(folded.state_dict(), assign=True)
    return plain.requires_grad_(False).eval()
