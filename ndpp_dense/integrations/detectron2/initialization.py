"""Initialisation of residual branches that end without a norm."""

from __future__ import annotations

import torch
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock, DeformBottleneckBlock
from torch import nn

from ndpp_dense.layers import NDLayer

_LAST = {BasicBlock: "conv2", BottleneckBlock: "conv3", DeformBottleneckBlock: "conv3"}


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
