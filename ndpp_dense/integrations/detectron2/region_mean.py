"""Means of the heads' losses over the regions of all ranks, as one process with the whole batch would take them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import nn

__all__ = ["RegionMean"]

# Which losses are means over all sampled regions of a rank, and which over those with an object.
_OVER_REGIONS = ("loss_cls", "loss_box_reg")
_OVER_OBJECTS = ("loss_mask",)


class RegionMean:
    """Weighs a rank's losses by its share of the regions.

    Detectron2's box and mask losses are means over the regions of a rank, and ranks average their gradients: regions on
    a rank with few count more, and a rank without objects pulls the mask loss towards zero. With the weight
    ``R k_r / sum(k)`` on rank r of R, which has k_r regions, the average over ranks is the mean over all regions.
    Losses of other names, and models without ``roi_heads`` that return labelled proposals, are left as they are.

    Args:
        model: the model without DistributedDataParallel.
    """

    def __init__(self, model: nn.Module) -> None:
        self._counts: torch.Tensor | None = None
        heads = getattr(model, "roi_heads", None)
        if isinstance(heads, nn.Module):
            heads.register_forward_hook(self._count)

    def weigh(self, losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return this rank's losses with their weights. Every rank must call it after its forward pass."""
        counts, self._counts = self._counts, None
        if counts is None or comm.get_world_size() == 1:
            return losses
        total = counts.clone()
        dist.all_reduce(total)
        regions, objects = (counts * comm.get_world_size() / total.clamp(min=1)).unbind()
        weights = {**dict.fromkeys(_OVER_REGIONS, regions), **dict.fromkeys(_OVER_OBJECTS, objects)}
        return {name: loss * weights[kind] if (kind := _kind(name)) else loss for name, loss in losses.items()}

    def _count(self, heads: Any, inputs: Any, output: Any) -> None:
        proposals = output[0] if isinstance(output, tuple) and heads.training else []
        if proposals and all(p.has("gt_classes") for p in proposals):
            classes = torch.cat([p.gt_classes for p in proposals])
            objects = ((classes >= 0) & (classes < heads.num_classes)).sum()
            self._counts = torch.stack([torch.full_like(objects, len(classes)), objects]).float()


def _kind(name: str) -> str | None:
    """The loss without the number of a cascade's stage."""
    return next((kind for kind in (*_OVER_REGIONS, *_OVER_OBJECTS) if name.startswith(kind)), None)
