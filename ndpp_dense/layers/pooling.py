"""What stands in for the 3x3 convolution of a bottleneck (parameter-free layers, PfLayer, ICLR 2022)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ndpp_dense.ops.pooling import TAPS, deform_pool3x3, max_pool3x3

__all__ = ["KINDS", "POOLS", "AvgPoolConv2d", "DeformablePool3x3", "MaxPool3x3", "spatial_operation"]

# Operations of efficient blocks: nothing follows them, since a norm and a ReLU after a pool add nothing (PfLayer, 4.1).
POOLS = ("max", "deform_max", "deform_avg")
KINDS = ("conv", "avg_conv", *POOLS)


def spatial_operation(kind: str, conv: nn.Module) -> nn.Module:
    """The operation of a bottleneck, with the geometry of the 3x3 convolution that the block was built with.

    Args:
        kind: ``"conv"`` (the convolution itself), ``"avg_conv"``, ``"max"``, ``"deform_max"`` or ``"deform_avg"``.
        conv: The block's own convolution, of whatever class its framework uses; ``"avg_conv"`` keeps it.

    Raises:
        ValueError: Unknown kind, or ``conv`` is no square 3x3 convolution.
    """
    if kind not in KINDS:
        raise ValueError(f"Unknown spatial operation {kind!r}. Choices: {', '.join(map(repr, KINDS))}.")
    if kind == "conv":
        return conv
    if not isinstance(conv, nn.Conv2d) or conv.kernel_size != (3, 3):
        raise ValueError(f"{kind!r} can replace a 3x3 nn.Conv2d only, not {conv}.")
    stride, dilation = int(conv.stride[0]), int(conv.dilation[0])
    if kind == "avg_conv":
        return AvgPoolConv2d(conv)
    if kind == "max":
        return MaxPool3x3(stride, dilation)
    return DeformablePool3x3(conv.in_channels, kind.removeprefix("deform_"), stride, dilation)


class MaxPool3x3(nn.Module):
    """Max-pool of a 3x3 window, padded to keep the size; see :func:`ndpp_dense.ops.pooling.max_pool3x3`.

    Args:
        stride: Pixels between windows.
        dilation: Pixels between the taps of a window.
    """

    def __init__(self, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(N, C, H, W)`` to ``(N, C, ceil(H / stride), ceil(W / stride))``."""
        return max_pool3x3(x, self.stride, self.dilation)

    def extra_repr(self) -> str:
        """Geometry, for printing."""
        return f"stride={self.stride}, dilation={self.dilation}"


class AvgPoolConv2d(nn.Module):
    """An average pool that takes over a convolution's stride, then the convolution (hybrid networks, downsampling).

    Args:
        conv: The strided convolution; its stride becomes 1. With stride 1 already (dilated networks) nothing is pooled.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        stride: Any = conv.stride
        # An odd map keeps its last row and column, as the strided shortcut beside it does.
        self.pool = nn.Identity() if stride == (1, 1) else nn.AvgPool2d(stride, stride, ceil_mode=True)
        conv.stride = (1, 1)
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(N, in_channels, H, W)`` to ``(N, out_channels, ceil(H / stride), ceil(W / stride))``."""
        return self.conv(self.pool(x))


class DeformablePool3x3(nn.Module):
    """Maximum or mean of nine samples at places that a convolution predicts from the input.

    Args:
        channels: Of the input and of the output.
        reduction: ``"max"`` or ``"avg"``.
        stride: Pixels between windows.
        dilation: Pixels between the taps of a window, at rest.
    """

    def __init__(self, channels: int, reduction: str = "max", stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.reduction = {"max": "max", "avg": "mean"}[reduction]
        self.stride = stride
        self.dilation = dilation
        self.predictor = nn.Conv2d(channels, 3 * TAPS, 3, stride, padding=dilation, dilation=dilation)
        self.init_weights()

    def init_weights(self) -> None:
        """Sets the window at rest and all modulations to a half; MMEngine calls it after its own initialisation."""
        nn.init.zeros_(self.predictor.weight)
        if self.predictor.bias is not None:
            nn.init.zeros_(self.predictor.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(N, channels, H, W)`` to ``(N, channels, ceil(H / stride), ceil(W / stride))``."""
        offset, modulation = self.predictor(x).split([2 * TAPS, TAPS], dim=1)
        return deform_pool3x3(x, offset, torch.sigmoid(modulation), self.reduction, self.stride, self.dilation)

    def extra_repr(self) -> str:
        """Geometry, for printing."""
        return f"reduction={self.reduction!r}, stride={self.stride}, dilation={self.dilation}"
