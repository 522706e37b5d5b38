"""Vision transformers that pool over the token grid in every other block (PfLayer, ICLR 2022), on timm's models."""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from timm.models.pit import PoolingVisionTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ndpp_dense.layers.pooling import MaxPool3x3

__all__ = ["PoolingPiT", "PoolingViT", "TokenMaxPool", "build", "pool_in_odd_blocks"]

RATIO = 3  # as wide as query, key and value together, which the pooled features stand in for


class TokenMaxPool(nn.Module):
    """Takes the place of self-attention: Linear, GELU, max-pool 3x3 over the token grid, GELU, Linear.

    The names ``qkv`` and ``proj`` are those of the published checkpoints.

    Args:
        dim: Width of the tokens.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, RATIO * dim)
        self.pool = MaxPool3x3()
        self.act = nn.GELU()
        self.proj = nn.Linear(RATIO * dim, dim)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Maps tokens ``(N, side², dim)`` of a square grid to as many; the other arguments are attention's."""
        side = math.isqrt(x.shape[1])
        if side * side != x.shape[1] or attn_mask is not None or is_causal:
            raise ValueError(
                f"{x.shape[1]} tokens, mask {attn_mask is not None or is_causal}: pooling over tokens takes square "
                "images and no mask. Pad the image to a square."
            )
        grid_NCHW = self.act(self.qkv(x)).transpose(1, 2).unflatten(2, (side, side))
        return self.proj(self.act(self.pool(grid_NCHW)).flatten(2).transpose(1, 2))


def pool_in_odd_blocks(blocks: Any) -> None:
    """Replaces the attention of the second, fourth, ... of a sequence of timm's transformer blocks."""
    for index, block in enumerate(blocks):
        if index % 2:
            block.attn = TokenMaxPool(block.norm1.normalized_shape[0])


class PoolingViT(VisionTransformer):
    """timm's vision transformer with average pooling for a head, half of whose blocks pool.

    Args:
        **kwargs: As for ``VisionTransformer``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(class_token=False, global_pool="avg", fc_norm=False, **kwargs)
        pool_in_odd_blocks(self.blocks)
        self.init_weights(needs_reset=False)


class PoolingPiT(PoolingVisionTransformer):
    """timm's PiT with average pooling for a head, half of whose blocks pool.

    Args:
        **kwargs: As for ``PoolingVisionTransformer``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        del self.cls_token
        stage: Any
        for stage in self.transformers:
            pool_in_odd_blocks(stage.blocks)
            if stage.pool is not None:
                del stage.pool.fc  # widened the class token

    def forward_features(self, x: Tensor) -> Tensor:
        """Maps images to normalised tokens ``(N, L, C)``; positions are resampled for other sizes than 224."""
        x = self.patch_embed(x)
        positions: Tensor = self.pos_embed
        if x.shape[2:] != positions.shape[2:]:
            positions = F.interpolate(positions, x.shape[2:], mode="bicubic")
        x = self.pos_drop(x + positions)
        stage: Any
        for stage in self.transformers:
            x = x if stage.pool is None else stage.pool.conv(x)
            x = stage.blocks(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])
        return self.norm(x.flatten(2).transpose(1, 2))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps tokens to class scores ``(N, classes)``, or to their mean."""
        x = self.head_drop(x.mean(dim=1))
        return x if pre_logits else self.head(x)


def build(num_classes: int, kind: str, **options: Any) -> nn.Module:
    """Builds a transformer.

    Args:
        num_classes: Classes; 0 leaves the classifier out.
        kind: ``"vit"`` (timm's own), ``"pooling_vit"`` or ``"pooling_pit"``.
        **options: As for the class.
    """
    if kind == "pooling_pit":
        return PoolingPiT(num_classes=num_classes, **options)
    vit = {"vit": VisionTransformer, "pooling_vit": PoolingViT}[kind]
    return vit(num_classes=num_classes, dynamic_img_size=True, dynamic_img_pad=True, **options)
