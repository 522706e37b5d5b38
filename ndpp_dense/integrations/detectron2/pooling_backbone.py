"""ResNet-FPN whose bottlenecks pool (PfLayer, ICLR 2022): Detectron2's own, but for the blocks' spatial operation."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock, ResNet

from ndpp_dense.layers.pooling import spatial_operation
from ndpp_dense.layers.stage_pattern import stage_pattern

__all__ = [
    "PoolingBottleneckBlock",
    "add_pooling_config",
    "build_pooling_resnet_backbone",
    "build_pooling_resnet_fpn_backbone",
]

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def add_pooling_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.POOLING`` to a config, in place.

    ``PATTERN`` says which bottlenecks pool; see :func:`ndpp_dense.layers.stage_pattern.stage_pattern`.
    """
    cfg.MODEL.POOLING = CfgNode({"PATTERN": "hybrid"})


class PoolingBottleneckBlock(BottleneckBlock):
    """Detectron2's bottleneck with another spatial operation; where it is a pool, no norm follows it.

    Args:
        *args: As for ``BottleneckBlock``.
        pooling: See :func:`ndpp_dense.layers.pooling.spatial_operation`.
        **kwargs: As for ``BottleneckBlock``.
    """

    def __init__(self, *args: Any, pooling: str = "conv", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conv2 = spatial_operation(pooling, self.conv2)


@BACKBONE_REGISTRY.register()
def build_pooling_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Detectron2's ResNet from the keys that it always reads, with blocks as ``MODEL.POOLING.PATTERN`` has them.

    Args:
        cfg: A config with :func:`add_pooling_config`'s key; ``add_ndpp_config`` adds it too.
        input_shape: Of the image.

    Raises:
        ValueError: Unknown pattern, or settings that leave the blocks no 3x3 convolution with the stride.
    """
    node = cfg.MODEL.RESNETS
    _check(node)
    width, in_channels, out_channels = (
        node.NUM_GROUPS * node.WIDTH_PER_GROUP,
        node.STEM_OUT_CHANNELS,
        node.RES2_OUT_CHANNELS,
    )
    stages = []
    for index, kinds in enumerate(stage_pattern(cfg.MODEL.POOLING.PATTERN, DEPTHS[node.DEPTH])):
        dilation = node.RES5_DILATION if index == 3 else 1
        first_stride = 1 if index == 0 or dilation == 2 else 2
        stages.append(
            ResNet.make_stage(
                PoolingBottleneckBlock,
                len(kinds),
                in_channels=in_channels,
                out_channels=out_channels << index,
                bottleneck_channels=width << index,
                stride_per_block=[first_stride] + [1] * (len(kinds) - 1),
                pooling_per_block=kinds,
                num_groups=node.NUM_GROUPS,
                norm=node.NORM,
                dilation=dilation,
            )
        )
        in_channels = out_channels << index
    stem = BasicStem(input_shape.channels, node.STEM_OUT_CHANNELS, node.NORM)
    return ResNet(stem, stages, out_features=node.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)


@BACKBONE_REGISTRY.register()
def build_pooling_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """:func:`build_pooling_resnet_backbone` under Detectron2's feature pyramid.

    Args:
        cfg: A config with :func:`add_pooling_config`'s key; ``add_ndpp_config`` adds it too.
        input_shape: Of the image.
    """
    return FPN(
        bottom_up=build_pooling_resnet_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def _check(node: CfgNode) -> None:
    """Raises for ``MODEL.RESNETS`` settings that a pooling ResNet cannot have, all at once."""
    faults = []
    if node.DEPTH not in DEPTHS:
        faults.append(f"DEPTH = {node.DEPTH} (only {', '.join(map(str, DEPTHS))} have bottlenecks)")
    if node.STRIDE_IN_1X1:
        faults.append("STRIDE_IN_1X1 = True (the spatial operation carries the stride: False)")
    if any(node.DEFORM_ON_PER_STAGE):
        faults.append("DEFORM_ON_PER_STAGE (for deformable pools set MODEL.POOLING.PATTERN: deform_max)")
    if node.RES5_DILATION not in (1, 2):
        faults.append(f"RES5_DILATION = {node.RES5_DILATION} (1 or 2)")
    if faults:
        raise ValueError("MODEL.RESNETS does not fit a pooling ResNet:\n  " + "\n  ".join(faults))
