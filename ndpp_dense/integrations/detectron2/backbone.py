"""An ND++ ResNet-FPN for those who want the backbone only."""

from __future__ import annotations

from dataclasses import replace

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.fpn import FPN, build_resnet_fpn_backbone

from ndpp_dense.integrations.detectron2.config import read_options
from ndpp_dense.integrations.detectron2.initialization import start_residual_branches_at_zero
from ndpp_dense.training.prepare import prepare


@BACKBONE_REGISTRY.register()
def build_ndpp_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Detectron2's ResNet-FPN with all its convolutions converted; the heads stay as they are.

    Args:
        cfg: A config with :func:`add_ndpp_config`'s keys; ``MODEL.NDPP.RULES`` (of whole models) is not read.
        input_shape: Of the image.
    """
    backbone = build_resnet_fpn_backbone(cfg, input_shape)
    options = replace(read_options(cfg), rules={})
    start = start_residual_branches_at_zero if cfg.MODEL.NDPP.ZERO_INIT_RESIDUAL else None
    prepare(backbone, options, start_at_zero=start)
    return backbone
