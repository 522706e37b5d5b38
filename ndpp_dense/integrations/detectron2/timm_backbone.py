"""Any timm network with feature maps as a Detectron2 backbone, under the feature pyramid."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from torch import Tensor

if TYPE_CHECKING:
    from ndpp_dense.backbones.timm_features import TimmFeatures

__all__ = ["TIMM_BUILDERS", "TimmBackbone", "add_timm_config", "build_timm_backbone", "build_timm_fpn_backbone"]

TIMM_BUILDERS = ("build_timm_backbone", "build_timm_fpn_backbone")
_log = logging.getLogger(__name__)


def add_timm_config(cfg: CfgNode) -> None:
    """Adds ``MODEL.TIMM`` to a config, in place.

    - ``NAME``: the network, e.g. ``"tf_efficientnet_lite0"``;
    - ``WEIGHTS``: file of its weights by timm's names; empty for random ones, and where ``MODEL.WEIGHTS`` has them;
    - ``OUT_INDICES``: timm's feature maps to use; empty for all;
    - ``NORM``: ``""`` leaves batch norms as they are, ``"FrozenBN"`` and ``"SyncBN"`` replace them.

    ``MODEL.BACKBONE.FREEZE_AT`` counts as ever: 1 freezes up to stride 2, 2 up to stride 4, and so on.
    """
    cfg.MODEL.TIMM = CfgNode({"NAME": "resnet50", "WEIGHTS": "", "OUT_INDICES": [], "NORM": ""})


class TimmBackbone(Backbone):
    """Feature maps by name: ``res2`` has stride 4, ``res5`` stride 32.

    Args:
        features: The network.
    """

    def __init__(self, features: TimmFeatures) -> None:
        super().__init__()
        self.body = features
        names = [f"res{stride.bit_length() - 1}" for stride in features.strides]
        self._out_features = names
        self._out_feature_strides = dict(zip(names, features.strides, strict=True))
        self._out_feature_channels = dict(zip(names, features.channels, strict=True))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps normalised images ``(N, 3, H, W)`` to feature maps."""
        return dict(zip(self._out_features, self.body(x), strict=True))

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride by name."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The network that ``MODEL.TIMM`` names.

    Args:
        cfg: A config with :func:`add_timm_config`'s keys; ``add_ndpp_config`` adds them too.
        input_shape: Of the image.

    Raises:
        FileNotFoundError: There is no such file of weights.
        ValueError: Settings that do not fit the network.
    """
    from ndpp_dense.backbones.timm_features import TimmFeatures

    node = cfg.MODEL.TIMM
    try:
        features = TimmFeatures(node.NAME, node.WEIGHTS, node.OUT_INDICES, node.NORM, cfg.MODEL.BACKBONE.FREEZE_AT)
    except ValueError as error:
        reason = (
            str(error).replace("freeze_at =", "MODEL.BACKBONE.FREEZE_AT", 1).replace("norm =", "MODEL.TIMM.NORM is", 1)
        )
        raise ValueError(f"MODEL.TIMM: {reason}") from error
    _compare_input(cfg, features)
    return TimmBackbone(features)


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """:func:`build_timm_backbone` under Detectron2's feature pyramid.

    Args:
        cfg: A config with :func:`add_timm_config`'s keys; ``add_ndpp_config`` adds them too.
        input_shape: Of the image.

    Raises:
        FileNotFoundError: There is no such file of weights.
        ValueError: Settings that do not fit the network.
    """
    bottom_up = build_timm_backbone(cfg, input_shape)
    missing = sorted(set(cfg.MODEL.FPN.IN_FEATURES) - set(bottom_up.output_shape()))
    if missing:
        raise ValueError(
            f"MODEL.FPN.IN_FEATURES names {', '.join(missing)}, and {cfg.MODEL.TIMM.NAME} has "
            f"{', '.join(bottom_up.output_shape())} (resN has stride 2 ** N). Correct it or MODEL.TIMM.OUT_INDICES."
        )
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def _compare_input(cfg: CfgNode, features: TimmFeatures) -> None:
    """Says so where pretrained weights would see other colours than they were trained on."""
    if not features.pretrained:
        return
    import timm

    trained = timm.get_pretrained_cfg(cfg.MODEL.TIMM.NAME)
    if trained is None:
        return
    wanted = {"PIXEL_MEAN": trained.mean, "PIXEL_STD": trained.std}
    wrong = [
        f"MODEL.{key} {[round(255 * value, 3) for value in values]}"
        for key, values in wanted.items()
        if any(abs(own - 255 * value) > 0.5 for own, value in zip(getattr(cfg.MODEL, key), values, strict=True))
    ]
    wrong = (["INPUT.FORMAT RGB"] if cfg.INPUT.FORMAT != "RGB" else []) + wrong
    if wrong:
        _log.warning("timm trained %s with %s; this config has others.", cfg.MODEL.TIMM.NAME, ", ".join(wrong))
