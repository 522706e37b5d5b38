"""ND++ in Detectron2: config keys, meta-architecture, backbone and training."""

from ndpp_dense.integrations.detectron2.backbone import build_ndpp_resnet_fpn_backbone
from ndpp_dense.integrations.detectron2.config import add_ndpp_config, whitening_config, whitening_rules
from ndpp_dense.integrations.detectron2.modeling import NDPPModel, to_ndpp

__all__ = [
    "NDPPModel",
    "add_ndpp_config",
    "build_ndpp_resnet_fpn_backbone",
    "to_ndpp",
    "whitening_config",
    "whitening_rules",
]
