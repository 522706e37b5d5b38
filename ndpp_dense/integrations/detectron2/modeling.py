"""What configs name: build as configured, then convert, before weights, optimizer and DDP.

``NDPPModel`` is the meta-architecture, ``build_ndpp_resnet_fpn_backbone`` for those who want the backbone only.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
from detectron2.modeling.backbone.fpn import FPN, build_resnet_fpn_backbone
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock, DeformBottleneckBlock
from torch import nn

from ndpp_dense.conversion.options import NDPPOptions
from ndpp_dense.integrations.detectron2.config import read_options
from ndpp_dense.layers import NDLayer, WhiteningConfig
from ndpp_dense.training.prepare import prepare

__all__ = ["NDPPModel", "build_ndpp_resnet_fpn_backbone", "start_residual_branches_at_zero", "to_ndpp"]

logger = logging.getLogger(__name__)
Model = TypeVar("Model", bound=nn.Module)
_LAST = {BasicBlock: "conv2", BottleneckBlock: "conv3", DeformBottleneckBlock: "conv3"}  # of a residual branch
BLANK_SIZE = 64  # pixels a side of the image on which the conversion is verified


@META_ARCH_REGISTRY.register()
def NDPPModel(cfg: CfgNode) -> nn.Module:  # noqa: N802 - a meta-architecture's name is its config value
    """Builds ``MODEL.NDPP.META_ARCHITECTURE`` and converts it.

    Args:
        cfg: A config with :func:`add_ndpp_config`'s keys.

    Returns:
        The built model itself, converted; its ``ndpp_report`` says what was done.
    """
    build = META_ARCH_REGISTRY.get(cfg.MODEL.NDPP.META_ARCHITECTURE)
    return _prepared(build(cfg), read_options(cfg), cfg.MODEL.NDPP.ZERO_INIT_RESIDUAL)


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


def to_ndpp(
    model: Model,
    config: WhiteningConfig | None = None,
    rules: Mapping[Any, Any] | None = None,
    verify: bool = True,
    zero_init_residual: bool = True,
) -> Model:
    """Converts a Detectron2 model, for use in a LazyConfig: ``model = L(to_ndpp)(model=model, config=...)``.

    Statistics of layers whose weights are frozen (``FREEZE_AT``) are frozen too.

    Args:
        model: A detector, newly built.
        config: How to whiten; ``WhiteningConfig.fast("coco")`` if None.
        rules: Exceptions, as :func:`ndpp_dense.convert_to_ndpp` takes them.
        verify: Whether to prove on a blank image that converted layers run.
        zero_init_residual: Whether the last convolution of every residual branch starts at zero.

    Returns:
        The same model, with the report as ``model.ndpp_report``.

    Raises:
        RuntimeError: A converted layer does not run, and the plain one did.
    """
    options = NDPPOptions(config or WhiteningConfig.fast("coco"), dict(rules or {}), verify)
    return _prepared(model, options, zero_init_residual)


def _prepared(model: Model, options: NDPPOptions, zero_init_residual: bool) -> Model:
    start = start_residual_branches_at_zero if zero_init_residual else None
    report = prepare(model, options, start_at_zero=start, example=_run_blank)
    logger.info("ND++ conversion:\n%s", report)
    return model


def _run_blank(model: nn.Module) -> Any:
    blank = torch.zeros(3, BLANK_SIZE, BLANK_SIZE, device=next(model.parameters()).device)
    return model([{"image": blank, "height": BLANK_SIZE, "width": BLANK_SIZE}])


@torch.no_grad()
def start_residual_branches_at_zero(model: nn.Module) -> None:
    """Sets the weights of the last convolution of every residual branch to zero, where it is converted and trains.

    A block then starts as the identity. The norm that ended the branch kept its output at unit variance; without it,
    the sum over blocks grows with depth until training has shrunk the weights. timm and MMSegmentation start the norm
    itself at zero; Detectron2, made for pretrained backbones, does not.

    Args:
        model: Converted, its weights newly initialised; weights that are loaded later take the place of the zeros.
    """
    for module in model.modules():
        last = next((getattr(module, name) for kind, name in _LAST.items() if isinstance(module, kind)), None)
        if isinstance(last, NDLayer) and last.weight.requires_grad:
            last.weight.zero_()
