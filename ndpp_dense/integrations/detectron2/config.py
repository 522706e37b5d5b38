"""The config node ``MODEL.NDPP`` and its reading."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from detectron2.config import CfgNode

from ndpp_dense.integrations.detectron2.pooling_backbone import add_pooling_config
from ndpp_dense.integrations.detectron2.solver_config import add_trainer_config
from ndpp_dense.layers.config import WhiteningConfig, preset


def add_ndpp_config(cfg: CfgNode) -> CfgNode:
    """Adds the keys of this package to a Detectron2 config, in place.

    ``MODEL.NDPP`` holds:

    - ``META_ARCHITECTURE``: what ``MODEL.META_ARCHITECTURE: NDPPModel`` builds and converts;
    - ``PRESET`` (``"fast"`` or ``"paper"``) and ``TASK`` (``"coco"``, ``"imagenet"`` or ``"cityscapes"``);
    - every field of ``WhiteningConfig`` in upper case; ``None`` means as the preset has it;
    - ``RULES``: exceptions by layer name, pattern or type, e.g. ``{"*.fpn_*": {"EPS": 0.1}, "*.stem.*": False}``;
    - ``ZERO_INIT_RESIDUAL``: start the last convolution of every residual branch at zero, for training from scratch;
      loaded weights take the place of the zeros;
    - ``VERIFY``: prove by a forward pass on a blank image that every converted layer runs.

    ``MODEL.POOLING`` is :func:`~ndpp_dense.integrations.detectron2.pooling_backbone.add_pooling_config`'s.

    Args:
        cfg: As from ``get_cfg()``.

    Returns:
        The same config.
    """
    node = CfgNode()
    node.META_ARCHITECTURE = "GeneralizedRCNN"
    node.PRESET = "fast"
    node.TASK = "coco"
    for field in fields(WhiteningConfig):
        node[field.name.upper()] = None
    node.RULES = CfgNode(new_allowed=True)
    node.ZERO_INIT_RESIDUAL = True
    node.VERIFY = True
    cfg.MODEL.NDPP = node
    add_pooling_config(cfg)
    add_trainer_config(cfg)
    return cfg


def whitening_config(cfg: CfgNode) -> WhiteningConfig:
    """The preset that ``MODEL.NDPP`` names, with the fields that it sets.

    Unless it sets the momentum, that follows ``SOLVER.IMS_PER_BATCH`` (``WhiteningConfig.for_batch``).

    Raises:
        ValueError: Unknown preset or task (the nearest is named), or invalid values.
    """
    node = cfg.MODEL.NDPP
    names = [field.name for field in fields(WhiteningConfig)]
    chosen = {name: node[name.upper()] for name in names if node[name.upper()] is not None}
    config = preset(node.PRESET, node.TASK).override(chosen)
    return config if "momentum" in chosen else config.for_batch(cfg.SOLVER.IMS_PER_BATCH)


def whitening_rules(cfg: CfgNode) -> dict[str, Any]:
    """``MODEL.NDPP.RULES`` as ``convert_to_ndpp`` takes them."""
    return {name: dict(rule) if isinstance(rule, dict) else rule for name, rule in cfg.MODEL.NDPP.RULES.items()}
