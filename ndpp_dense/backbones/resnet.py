"""ResNets whose bottlenecks pool (PfLayer, ICLR 2022), as timm's ResNet with timm's bottleneck."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from ndpp_dense.layers.pooling import POOLS, DeformablePool3x3, spatial_operation
from ndpp_dense.layers.stage_pattern import BlockSequence, stage_pattern

__all__ = ["PoolingBottleneck", "build"]


class PoolingBottleneck(Bottleneck):
    """timm's bottleneck with another spatial operation.

    Args:
        *args: As for ``timm.models.resnet.Bottleneck``.
        pooling: See :func:`ndpp_dense.layers.pooling.spatial_operation`.
        **kwargs: As for ``timm.models.resnet.Bottleneck``.
    """

    def __init__(self, *args: Any, pooling: str = "conv", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conv2 = spatial_operation(pooling, self.conv2)
        if pooling in POOLS:
            self.bn2, self.act2 = nn.Identity(), nn.Identity()


def build(
    num_classes: int, depths: Sequence[int], pattern: str | None = None, output_stride: int = 32, **options: Any
) -> ResNet:
    """Builds a ResNet; parameter names are torchvision's.

    Torchvision has no deep stem (``stem_type="deep"``); here all of it is ``conv1``, its last norm included.

    Args:
        num_classes: Classes; 0 leaves the classifier out.
        depths: Blocks of each of the four stages.
        pattern: See :func:`ndpp_dense.layers.stage_pattern.stage_pattern`; None has the two-layer blocks of ResNet-18.
        output_stride: Of the last stage: 32, 16 or 8. Stages that would go beyond are dilated instead.
        **options: As for ``timm.models.resnet.ResNet``.
    """
    block: Any = BasicBlock
    if pattern is not None:
        block = BlockSequence(PoolingBottleneck, sum(stage_pattern(pattern, depths), []))
    model = ResNet(block, tuple(depths), num_classes=num_classes, output_stride=output_stride, **options)
    if isinstance(model.conv1, nn.Sequential):
        # timm has the last norm beside the sequence, where conversion to ND++ sees no convolution that it belongs to.
        model.conv1.append(model.bn1)
        model.bn1 = nn.Identity()
    for module in model.modules():
        if isinstance(module, DeformablePool3x3):
            module.init_weights()  # timm has drawn the predictor's weights like any other convolution's
    return model
