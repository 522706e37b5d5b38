"""Any timm network with feature maps as an MMSegmentation backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor

__all__ = ["NDPPTimmBackbone"]


@MODELS.register_module()
class NDPPTimmBackbone(BaseModule):
    """Feature maps of a timm network; beside MMSegmentation's own it freezes stages and norms, and checks weights.

    Args:
        name: The network, e.g. ``"tf_efficientnet_lite0"``.
        weights: File of its weights by timm's names; empty for random ones.
        out_indices: timm's feature maps to return; empty for all.
        norm: ``""`` leaves batch norms as they are, ``"FrozenBN"`` and ``"SyncBN"`` replace them.
        frozen_stages: Up to which the weights do not train: 0 freezes nothing, 1 up to stride 2, 2 up to stride 4.
        output_stride: Largest stride, 8, 16 or 32.
    """

    def __init__(
        self,
        name: str,
        weights: str = "",
        out_indices: Sequence[int] = (),
        norm: str = "",
        frozen_stages: int = 0,
        output_stride: int = 32,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        from ndpp_dense.backbones.timm_features import TimmFeatures

        self.body = TimmFeatures(name, weights, out_indices, norm, frozen_stages, output_stride)
        self._is_init = True  # timm has initialised it

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps normalised images ``(N, 3, H, W)`` to feature maps."""
        return tuple(self.body(x))
