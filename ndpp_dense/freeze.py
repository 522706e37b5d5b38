"""Statistics of layers whose weights do not train."""

from __future__ import annotations

from torch import nn

from ndpp_dense.layers.base import NDLayer, nd_layers
from ndpp_dense.statistics import freeze_stats


def freeze_where_weights_are(model: nn.Module) -> list[str]:
    """Freezes the statistics of all ND++ layers whose weight does not train; returns their names."""
    frozen: list[tuple[str, NDLayer]] = [(n, layer) for n, layer in nd_layers(model) if not layer.weight.requires_grad]
    for _, layer in frozen:
        freeze_stats(layer)
    return [name for name, _ in frozen]
