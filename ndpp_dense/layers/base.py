"""What the three ND++ layers have in common: the folded weight, and how a plain layer becomes one of them.

Shape suffixes: Q channel groups, O outputs of a group, G blocks of a group, D columns of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from ndpp_dense.layers.config import WhiteningConfig
from ndpp_dense.layers.folded_cache import FoldedCache, may_cache
from ndpp_dense.layers.local_scale import LocalScale, inverse_magnitude, local_scale
from ndpp_dense.layers.pass_through import LAST_OUTPUT, remember_output
from ndpp_dense.layers.scale_ramp import ScaleRamp
from ndpp_dense.layers.statistics.whitening import Whitening
from ndpp_dense.ops.eager import differentiates_by_hand
from ndpp_dense.ops.precision import full_precision
from ndpp_dense.ops.unit_magnitude import unit_magnitude
from ndpp_dense.ops.whitened_weight import whitened_weight

__all__ = ["ND_ATTRIBUTES", "NDLayer", "largest_divisor", "nd_layers"]

# What an ND++ layer has beyond the plain one.
ND_ATTRIBUTES = frozenset({"config", "block_size", "whitening", "scale_ramp", "activation", "_folded", LAST_OUTPUT})


class NDLayer(nn.Module):
    """A linear map whose input is scaled per sample and whitened: ``y = S X D w + b`` (ND++, Eq. 3).

    Subclasses also derive from the plain layer, whose weight and bias they keep in their usual shapes. They say how
    the weight is cut into blocks and what the data matrix is.

    Attributes:
        config: How the layer whitens.
        block_size: Input channels (features) of a block.
        whitening: Statistics and D.
        scale_ramp: What lets local scale come in by steps; None where it is there at once.
        activation: Applied to the output if not None, for layers that carry their activation with them (Detectron2).
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    groups: int = 1
    _folded: FoldedCache | None = None

    def _init_whitening(
        self, config: WhiteningConfig, channels: int, block_size: int, taps: int, sampled: bool = True
    ) -> None:
        """Adds the state; ``channels`` are those of one group, ``taps`` the positions that a window has."""
        self.config = config
        self.block_size = largest_divisor(channels, block_size)
        self.activation: Callable[[Tensor], Tensor] | None = None
        blocks = self.groups * channels // self.block_size
        self.scale_ramp = ScaleRamp(config.scale_steps) if config.scale_steps and self._scale.ramps else None
        self.whitening = Whitening(blocks, self.block_size * taps, config, sampled)

    @property
    def _scale(self) -> LocalScale:
        """S of the layer."""
        return local_scale(self.config.local_scale)

    def _scaled(self, x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        """The input of the linear map, and the factor for its output or None; see :class:`LocalScale`."""
        if not self._scale_is_whole:
            return self.scale_ramp(x, dims)  # pyright: ignore
        by_batch = self.config.grad == "full" and self.training and not self.whitening.frozen
        by_batch = by_batch and x.dtype in (torch.float32, torch.float64)  # statistics see no rounded x
        if not (by_batch and self._scale.fuses and torch.is_grad_enabled() and differentiates_by_hand(x)):
            return self._scale.apply(x, dims)
        with torch.no_grad():
            scale = inverse_magnitude(x, dims)
        return unit_magnitude(x, scale, dims), None  # which statistics and map take, both with a gradient

    @property
    def _scale_is_whole(self) -> bool:
        return self.scale_ramp is None or self.scale_ramp.complete

    def set_momentum(self, momentum: float) -> None:
        """Lets later steps weigh so much in the running statistics.

        Args:
            momentum: In (0, 1].

        Raises:
            ValueError: It is out of range.
        """
        self.whitening.set_momentum(momentum)
        self.config = self.whitening.config

    def _blocked_weight(self) -> Tensor:
        """The weight as ``(Q, O, G, D)``, columns ordered as the data matrix has them."""
        raise NotImplementedError(type(self).__name__)

    def _unblocked_weight(self, weight_QOGD: Tensor) -> Tensor:
        """Inverse of :meth:`_blocked_weight`."""
        raise NotImplementedError(type(self).__name__)

    def _blocked_bias(self, weight_QOGD: Tensor) -> Tensor:
        """The bias by row of the blocked weight, ``(Q, O)``, in its data type."""
        if self.bias is None:
            return weight_QOGD.new_zeros(weight_QOGD.shape[:2])
        bias = self.bias.to(weight_QOGD.dtype).view(self.groups, -1, 1)
        return bias.expand(-1, -1, self._outputs_per_channel()).reshape(self.groups, -1)

    def _unblocked_bias(self, bias_QO: Tensor) -> Tensor:
        """Bias by output row of the blocked weight, in the shape that the layer adds to its output."""
        return bias_QO.flatten()

    def whitened_parameters(self, mean_GD: Tensor, whitening_GDD: Tensor) -> tuple[Tensor, Tensor]:
        """Moves D and the mean from the data into the parameters: ``W' = W D``, ``b' = b - W' mean``.

        Args:
            mean_GD: Mean of the data matrix by block (one row if shared).
            whitening_GDD: D by block (one if shared).

        Returns:
            The weight in the plain layer's shape, and the bias, both in float32 (float64 for a float64 layer).
        """
        with full_precision(self.weight.device):
            weight = self._blocked_weight().to(mean_GD.dtype)
            groups, _, blocks, dim = weight.shape
            mean = mean_GD.expand(groups * blocks, dim).view(groups, blocks, dim)
            weight, bias = whitened_weight(weight, self._blocked_bias(weight), mean, whitening_GDD)
            return self._unblocked_weight(weight), self._unblocked_bias(bias)

    def folded_parameters(self) -> tuple[Tensor, Tensor]:
        """:meth:`whitened_parameters` from the stored statistics, as used in evaluation."""
        return self.whitened_parameters(self.whitening.running_mean, self.whitening.running_whitening)

    def laid_out(self, weight: Tensor) -> Tensor:
        """A weight in the data type and memory format of the layer's own."""
        return torch.empty_like(self.weight, requires_grad=False).copy_(weight)

    def effective_parameters(self, mean_GD: Tensor, whitening_GDD: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`whitened_parameters`, computed once where they are constants.

        They are if these statistics are the stored ones and no gradient goes through the parameters: in evaluation, and
        in frozen layers. They are computed anew after a change of weight, bias or statistics, after ``.eval()`` and
        ``.to()``; :class:`FoldedCache` says which writes in between go unseen.

        Args:
            mean_GD: As :attr:`whitening` returned it.
            whitening_GDD: As :attr:`whitening` returned it.
        """
        stored = mean_GD is self.whitening.running_mean and whitening_GDD is self.whitening.running_whitening
        sources = (self.weight, self.bias, mean_GD, whitening_GDD)
        if not (stored and may_cache(sources)):
            return self.whitened_parameters(mean_GD, whitening_GDD)
        folded = self._folded
        if folded is None or not folded.made_from(sources):
            with torch.inference_mode(False), torch.no_grad():  # tensors that a later training step may save
                weight, bias = self.whitened_parameters(mean_GD, whitening_GDD)
                self._folded = folded = FoldedCache(sources, self.laid_out(weight), bias)
        return folded.weight, folded.bias

    def train(self, mode: bool = True) -> NDLayer:
        """As for any module; what was folded is forgotten, since who changes modes may have written to ``.data``.

        Trainers that call this at every step do not change the mode of a frozen layer.
        """
        if not (mode and self.training):
            self._folded = None
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NDLayer:
        self._folded = None
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out of pickles and copies what belongs to the last forward pass."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_folded", LAST_OUTPUT)}

    def _adopt(self, layer: nn.Module) -> None:
        """Takes over a plain layer's parameters (the same objects), adding a bias where it has none."""
        self.weight = cast(nn.Parameter, layer.weight)
        bias = cast("nn.Parameter | None", layer.bias)
        if bias is None:
            outputs = self._blocked_weight().shape[:2].numel() // self._outputs_per_channel()
            bias = nn.Parameter(self.weight.new_zeros(outputs), requires_grad=self.weight.requires_grad)
        self.bias = bias
        self.activation = getattr(layer, "activation", None)
        if self.scale_ramp is not None:
            self.scale_ramp.to(self.weight.device)
        self.whitening.to(self.weight.device, torch.promote_types(self.weight.dtype, torch.float32))
        self.train(layer.training)

    def _outputs_per_channel(self) -> int:
        """Rows of the blocked weight that belong to one output channel."""
        return 1

    def _activate(self, y: Tensor) -> Tensor:
        return remember_output(self, y if self.activation is None else self.activation(y))

    def extra_repr(self) -> str:
        """The plain layer's line, with blocks and matrix size."""
        blocks, dim = self.whitening.running_mean.shape
        return f"{super().extra_repr()}, block_size={self.block_size}, D={blocks}x{dim}x{dim}"


def nd_layers(model: nn.Module) -> Iterator[tuple[str, NDLayer]]:
    """All ND++ layers of a model with their names, each once."""
    for name, module in model.named_modules():
        if isinstance(module, NDLayer):
            yield name, module


def largest_divisor(channels: int, limit: int) -> int:
    """The largest divisor of ``channels`` that is no greater than ``limit``."""
    return next(size for size in range(min(channels, limit), 0, -1) if channels % size == 0)
