"""Plain layers that ND++ layers fold into: constant weights, and the per-sample scale that no constant can hold."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ndpp_dense.layers.base import NDLayer
from ndpp_dense.layers.conv import NDConv, NDConv1d, NDConv2d, NDConv3d
from ndpp_dense.layers.conv_transpose import NDConvTranspose, NDConvTranspose1d, NDConvTranspose2d, NDConvTranspose3d
from ndpp_dense.layers.functional import (
    FEATURE_DIMS,
    geometry,
    is_unbatched,
    pad_input,
    sample_dims,
    scaled_conv,
    scaled_conv_transpose,
    scaled_linear,
)
from ndpp_dense.layers.linear import NDLinear
from ndpp_dense.layers.local_scale import local_scale
from ndpp_dense.layers.pass_through import LAST_OUTPUT, remember_output
from ndpp_dense.layers.scale_ramp import ScaleRamp
from ndpp_dense.layers.scriptable import scriptable
from ndpp_dense.layers.symbolic import as_one_step

__all__ = ["FoldedConv", "FoldedConvTranspose", "FoldedLinear", "fold_layer"]


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

    def __prepare_scriptable__(self) -> nn.Module:
        """What ``torch.jit.script`` compiles in this layer's place.

        PyTorch puts it into the model that is scripted, too.
        """
        return scriptable(self, self.local_scale, self.scale_ramp, self.activation)

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out of pickles and copies what belongs to the last forward pass."""
        return {name: value for name, value in self.__dict__.items() if name != LAST_OUTPUT}

    def extra_repr(self) -> str:
        """The plain layer's line, with the kind of local scale."""
        return f"{super().extra_repr()}, local_scale={self.local_scale}"


class FoldedConv(_Folded, _ConvNd):
    """A convolution of the scaled input: ``S x * W' + b'``; one of the classes below."""

    def __init__(self, layer: NDConv) -> None:
        super().__init__(**geometry(layer), device="meta")  # type: ignore[call-arg]
        self._take(layer)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (as PyTorch's convolutions have it)
        """Maps ``(N, in_channels, *positions)`` to ``(N, out_channels, *positions)``; N may be left out."""
        step = as_one_step(self, input)
        if step is not None:
            return step
        if is_unbatched(self, input):
            return self._map(input.unsqueeze(0)).squeeze(0)
        return self._map(input)

    def _map(self, x: Tensor) -> Tensor:
        x, scale = self._scaled(x, sample_dims(x))
        x, padding = pad_input(self, x)
        return self._activate(scaled_conv(self, x, scale, self.weight, self.bias, padding))


class FoldedConv1d(FoldedConv, nn.Conv1d):
    """Of one dimension."""


class FoldedConv2d(FoldedConv, nn.Conv2d):
    """Of two dimensions."""


class FoldedConv3d(FoldedConv, nn.Conv3d):
    """Of three dimensions."""


class FoldedConvTranspose(_Folded, _ConvTransposeNd):
    """A transposed convolution of the scaled input; its bias ``(out, *stride)`` has a value per phase of the stride."""

    def __init__(self, layer: NDConvTranspose) -> None:
        super().__init__(**geometry(layer), device="meta")  # type: ignore[call-arg]
        self._take(layer)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Maps ``(N, in_channels, *positions)`` to ``(N, out_channels, *positions)``; N may be left out."""
        step = as_one_step(self, input)
        if step is not None:
            return step
        if is_unbatched(self, input):
            return self._map(input.unsqueeze(0)).squeeze(0)
        return self._map(input)

    def _map(self, x: Tensor) -> Tensor:
        x, scale = self._scaled(x, sample_dims(x))
        return self._activate(scaled_conv_transpose(self, x, scale, self.weight, self.bias))


class FoldedConvTranspose1d(FoldedConvTranspose, nn.ConvTranspose1d):
    """Of one dimension."""


class FoldedConvTranspose2d(FoldedConvTranspose, nn.ConvTranspose2d):
    """Of two dimensions."""


class FoldedConvTranspose3d(FoldedConvTranspose, nn.ConvTranspose3d):
    """Of three dimensions."""


class FoldedLinear(_Folded, nn.Linear):
    """A linear map of the scaled rows: ``S x W'^T + b'``."""

    def __init__(self, layer: NDLinear) -> None:
        nn.Linear.__init__(self, layer.in_features, layer.out_features, device="meta")
        self._take(layer)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Maps ``(..., in_features)`` to ``(..., out_features)``."""
        step = as_one_step(self, input)
        if step is not None:
            return step
        x, scale = self._scaled(input, FEATURE_DIMS)
        y = scaled_linear(x, scale, self.weight, self.bias, self.weight.dtype)
        return self._activate(y)


_FOLDED: dict[type[NDLayer], type[Any]] = {
    NDConv1d: FoldedConv1d,
    NDConv2d: FoldedConv2d,
    NDConv3d: FoldedConv3d,
    NDConvTranspose1d: FoldedConvTranspose1d,
    NDConvTranspose2d: FoldedConvTranspose2d,
    NDConvTranspose3d: FoldedConvTranspose3d,
    NDLinear: FoldedLinear,
}
_PLAIN: dict[type[NDLayer], type[nn.Module]] = {NDConv1d: nn.Conv1d, NDConv2d: nn.Conv2d, NDConv3d: nn.Conv3d}


def fold_layer(layer: NDLayer) -> nn.Module:
    """The folded layer; an ordinary convolution or ``nn.Linear`` where nothing but constants is left.

    Args:
        layer: An ND++ layer; its stored statistics are used.
    """
    kind = next((kind for kind in _FOLDED if isinstance(layer, kind)), None)
    if kind is None:
        raise TypeError(f"cannot fold a {type(layer).__name__}: {', '.join(k.__name__ for k in _FOLDED)} are known")
    folded = _FOLDED[kind](layer)
    if not local_scale(layer.config.local_scale).foldable or layer.activation is not None:
        return folded
    if isinstance(layer, NDLinear):
        return _with_parameters(nn.Linear(layer.in_features, layer.out_features, device="meta"), folded)
    if isinstance(layer, NDConv):
        return _with_parameters(_PLAIN[kind](**geometry(layer), device="meta"), folded)
    return folded


def _with_parameters(plain: nn.Module, folded: nn.Module) -> nn.Module:
    plain.load_state_dict(folded.state_dict(), assign=True)
    return plain.requires_grad_(False).eval()
