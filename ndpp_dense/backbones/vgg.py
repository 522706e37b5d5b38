"""VGG-16 with global average pooling at one or all of its resolutions, for translation invariance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["PooledVGG16", "build"]

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels and convolutions before each pool
CLASSIFIERS = ("classifier.", "pre_logits.", "head.fc.")  # of torchvision's and timm's VGG-16
READOUTS = ("flatten", "gap", "multi_gap", "multi_gap_flatten")


class PooledVGG16(nn.Module):
    """The convolutions of VGG-16 and one linear layer on what is read from its five pools.

    Parameter names of the convolutions are torchvision's and timm's (``features.0.weight``), with batch norms too. They
    start as torchvision's do: with PyTorch's default the signal of thirteen convolutions without norms fades out.

    Args:
        num_classes: Classes; 0 leaves the classifier out.
        readout: ``"flatten"`` (the last map as it is), ``"gap"`` (its mean), ``"multi_gap"`` (the means of all five) or
            ``"multi_gap_flatten"`` (these and the last map).
        image_size: Pixels a side of the square images, a multiple of 32; ``"flatten"`` takes no others.
        divisor: Of the channels of every layer: 4 makes a network a sixteenth as costly.
        batch_norm: Whether a batch norm follows every convolution, to train from scratch.

    Raises:
        ValueError: The readout is unknown.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        readout: str = "gap",
        image_size: int = 256,
        *,
        divisor: int = 1,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if readout not in READOUTS:
            raise ValueError(f"readout = {readout!r}: it must be one of {', '.join(map(repr, READOUTS))}.")
        layers: list[nn.Module] = []
        in_channels, stages = 3, [(channels // divisor, convs) for channels, convs in STAGES]
        for channels, convs in stages:
            for _ in range(convs):
                norm = [nn.BatchNorm2d(channels)] if batch_norm else []
                layers += [nn.Conv2d(in_channels, channels, 3, padding=1), *norm, nn.ReLU(inplace=True)]
                in_channels = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self._init_weights()
        self.means = 0 if readout == "flatten" else len(STAGES) if "multi_gap" in readout else 1
        self.flat_size = image_size // 2 ** len(STAGES) if "flatten" in readout else 0
        self.num_features = sum(channels for channels, _ in stages[len(stages) - self.means :])
        self.num_features += in_channels * self.flat_size**2
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Leaves out the classifier that torchvision's and timm's weights hold: this network has one of its own."""
        for name in [name for name in state_dict if name.startswith(tuple(prefix + part for part in CLASSIFIERS))]:
            del state_dict[name]
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _init_weights(self) -> None:
        for layer in self.features:
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """The outputs of the five pools, at strides 2 to 32."""
        pools = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                pools.append(x)
        return pools

    def forward(self, x: Tensor) -> Tensor:
        """Maps images ``(N, 3, H, W)``, at least 32 pixels a side, to class scores ``(N, classes)``."""
        pools = self.forward_features(x)
        read = [pool.mean(dim=(2, 3)) for pool in pools[len(pools) - self.means :]]
        if self.flat_size:
            if pools[-1].shape[2:] != (self.flat_size, self.flat_size):
                raise ValueError(
                    f"Images of {tuple(x.shape[2:])} pixels: a flattened readout was built for squares of "
                    f"{32 * self.flat_size}. Resize them, or take a readout that averages."
                )
            read.append(pools[-1].flatten(1))
        return self.head(torch.cat(read, dim=1))


def build(num_classes: int, readout: str, **options: Any) -> PooledVGG16:
    """Builds the network, for images of 256 pixels unless the options say otherwise."""
    return PooledVGG16(num_classes, readout, **options)
