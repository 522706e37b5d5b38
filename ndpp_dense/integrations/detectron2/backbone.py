"""An ND++ ResNet-FPN for those who want the backbone only."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.fpn import FPN, build_resnet_fpn_backbone

from ndpp_dense.conversion.convert import convert_to_ndpp
from ndpp_dense.integrations.detectron2.config import whitening_config
from ndpp_dense.integrations.detectron2.initialization import start_residual_branches_at_zero
from ndpp_dense.layers.model_statistics import freeze_where_weights_are


@BACKBONE_REGISTRY.register()
def build_ndpp_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Detectron2's ResNet-FPN with all its convolutions converted; the heads stay as they are.

    Args:
        cfg: A config with :func:`add_ndpp_config`'s keys; ``MODEL.NDPP.RULES`` (of whole models) is not read.
        input_shape: Of the image.
    """
    backbone = build_resnet_fpn_backbone(cfg, input_shape)
    convert_to_ndpp(backbone, whitening_config(cfg))
    freeze_where_weights_are(backbone)
    if cfg.MODEL.NDPP.ZERO_INIT_RESIDUAL:
        start_residual_branches_at_zero(backbone)
    return backbone
