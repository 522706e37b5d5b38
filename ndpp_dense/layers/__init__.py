"""ND++ layers: weights and buffers around the mathematics of ``ndpp_dense.ops``."""

from ndpp_dense.layers.base import NDLayer, nd_layers
from ndpp_dense.layers.config import WhiteningConfig
from ndpp_dense.layers.conv import NDConv1d, NDConv2d, NDConv3d
from ndpp_dense.layers.conv_transpose import NDConvTranspose1d, NDConvTranspose2d, NDConvTranspose3d
from ndpp_dense.layers.linear import NDLinear

__all__ = [
    "NDConv1d",
    "NDConv2d",
    "NDConv3d",
    "NDConvTranspose1d",
    "NDConvTranspose2d",
    "NDConvTranspose3d",
    "NDLayer",
    "NDLinear",
    "WhiteningConfig",
    "nd_layers",
]
