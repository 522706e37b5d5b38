"""ResNets whose bottlenecks pool (PfLayer, ICLR 2022): MMSegmentation's own, but for the blocks' spatial operation."""

from __future__ import annotations

from typing import Any

from mmengine.registry import MODELS
from mmseg.models.backbones.resnet import Bottleneck, ResNet
from torch import nn

from ndpp_dense.layers.pooling import POOLS, spatial_operation
from ndpp_dense.layers.stage_pattern import BlockSequence, stage_pattern

__all__ = ["PoolingBottleneck", "PoolingResNet", "PoolingResNetV1c"]


class PoolingBottleneck(Bottleneck):
    """MMSegmentation's bottleneck with another spatial operation; where it is a pool, no norm follows it.

    Args:
        *args: As for ``Bottleneck``.
        pooling: See :func:`ndpp_dense.layers.pooling.spatial_operation`.
        **kwargs: As for ``Bottleneck``.
    """

    def __init__(self, *args: Any, pooling: str = "conv", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conv2 = spatial_operation(pooling, self.conv2)
        if pooling in POOLS:
            setattr(self, self.norm2_name, nn.Identity())


@MODELS.register_module()
class PoolingResNet(ResNet):
    """MMSegmentation's ResNet with pooling bottlenecks.

    Args:
        depth: 50, 101 or 152.
        pattern: See :func:`ndpp_dense.layers.stage_pattern.stage_pattern`.
        **kwargs: As for ``ResNet``.

    Raises:
        ValueError: A depth, style or pattern that pooling does not go with.
    """

    def __init__(self, depth: int, pattern: str = "hybrid", **kwargs: Any) -> None:
        depths = {d: counts for d, (block, counts) in self.arch_settings.items() if block is Bottleneck}
        if depth not in depths:
            choices = ", ".join(map(str, depths))
            raise ValueError(f"depth = {depth}: only ResNets of {choices} layers have the bottlenecks that pool.")
        if kwargs.get("style", "pytorch") != "pytorch":
            raise ValueError(f"style = {kwargs['style']!r}: the spatial operation carries the stride, as in 'pytorch'.")
        if kwargs.get("dcn") is not None:
            raise ValueError("dcn replaces the same convolutions. For deformable pools take pattern='deform_max'.")
        self._kinds = stage_pattern(pattern, depths[depth])
        super().__init__(depth=depth, **kwargs)

    def make_res_layer(self, **kwargs: Any) -> nn.Module:
        """Builds the next stage."""
        kinds = self._kinds[len(self.res_layers)]
        return super().make_res_layer(**{**kwargs, "block": BlockSequence(PoolingBottleneck, kinds)})


@MODELS.register_module()
class PoolingResNetV1c(PoolingResNet):
    """The same with the deep stem of ``ResNetV1c``.

    Args:
        **kwargs: As for :class:`PoolingResNet`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(deep_stem=True, avg_down=False, **kwargs)
