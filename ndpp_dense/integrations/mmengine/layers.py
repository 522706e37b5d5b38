"""ND++ layers as types for ``conv_cfg``, ``norm_cfg`` and the like."""

from __future__ import annotations

from typing import Any

from mmengine.registry import MODELS
from torch import nn

from ndpp_dense.integrations.mmengine.config import split_whitening
from ndpp_dense.layers import NDConv2d, NDConvTranspose2d, NDLinear

__all__ = ["NoNorm", "build_nd_conv2d", "build_nd_conv_transpose2d", "build_nd_linear"]


@MODELS.register_module(name="NDConv2d")
def build_nd_conv2d(*args: Any, **kwargs: Any) -> NDConv2d:
    """Makes a convolution: ``conv_cfg=dict(type="NDConv2d", preset="fast", task="cityscapes", eps=0.1)``.

    It always has a bias: callers leave it out because a norm follows, and ND++ stands in for that norm.
    """
    config, rest = split_whitening(kwargs)
    return NDConv2d(*args, **{**rest, "bias": True}, config=config)


@MODELS.register_module(name="NDConvTranspose2d")
def build_nd_conv_transpose2d(*args: Any, **kwargs: Any) -> NDConvTranspose2d:
    """Makes a transposed convolution from the same keys, always with a bias."""
    config, rest = split_whitening(kwargs)
    return NDConvTranspose2d(*args, **{**rest, "bias": True}, config=config)


@MODELS.register_module(name="NDLinear")
def build_nd_linear(*args: Any, **kwargs: Any) -> NDLinear:
    """Makes a linear layer from the same keys, always with a bias."""
    config, rest = split_whitening(kwargs)
    return NDLinear(*args, **{**rest, "bias": True}, config=config)


@MODELS.register_module(name="NoNorm")
class NoNorm(nn.Identity):
    """``norm_cfg=dict(type="NoNorm")``, for models that cannot be built with ``norm_cfg=None``.

    Args:
        num_features: Channels; not used.
        eps: Not used; MMCV passes it to every norm.
    """

    _abbr_ = "no_norm"

    def __init__(self, num_features: int, eps: float = 0.0) -> None:
        super().__init__()
