"""ND++ in Detectron2: config keys, meta-architecture, backbone and training."""

from ndpp_dense.integrations.detectron2.compat import import_model_zoo
from ndpp_dense.integrations.detectron2.config import add_ndpp_config, read_options
from ndpp_dense.integrations.detectron2.modeling import NDPPModel, build_ndpp_resnet_fpn_backbone, to_ndpp
from ndpp_dense.integrations.detectron2.pooling_backbone import (
    PoolingBottleneckBlock,
    build_pooling_resnet_backbone,
    build_pooling_resnet_fpn_backbone,
)
from ndpp_dense.integrations.detectron2.timm_backbone import (
    TimmBackbone,
    build_timm_backbone,
    build_timm_fpn_backbone,
)
from ndpp_dense.integrations.detectron2.zoo import register_zoo

import_model_zoo()  # which could not be imported after this without help
register_zoo()  # ndpp://NAME is a path from here on

__all__ = [
    "NDPPModel",
    "PoolingBottleneckBlock",
    "TimmBackbone",
    "add_ndpp_config",
    "build_ndpp_resnet_fpn_backbone",
    "build_pooling_resnet_backbone",
    "build_pooling_resnet_fpn_backbone",
    "build_timm_backbone",
    "build_timm_fpn_backbone",
    "read_options",
    "to_ndpp",
]
