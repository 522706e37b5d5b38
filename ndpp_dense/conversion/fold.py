"""Turning an ND++ model into plain layers for inference."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

from torch import nn

from ndpp_dense.conversion.module_surgery import carry_over, replace_modules
from ndpp_dense.conversion.norm_pairs import linear_kind
from ndpp_dense.conversion.rules import LINEAR_TYPES
from ndpp_dense.layers.base import ND_ATTRIBUTES, NDLayer, nd_layers
from ndpp_dense.layers.folded import fold_layer
from ndpp_dense.layers.pass_through import PassThrough
from ndpp_dense.layers.statistics.steps import unwatch_steps

__all__ = ["fold_ndpp"]

Model = TypeVar("Model", bound=nn.Module)


def fold_ndpp(model: Model) -> Model:
    """A copy of the model for inference: plain layers with the whitening baked into their weights.

    What depends on the input, the per-sample scale, stays as one factor on the output. Outputs equal those of the
    model in evaluation mode to the bit.

    Args:
        model: A model with ND++ layers, or one such layer; it is left untouched.

    Returns:
        The folded copy, in evaluation mode, its folded parameters without gradients.

    Raises:
        ValueError: The model has no ND++ layer.
    """
    folded = deepcopy(model)
    replacements: dict[nn.Module, nn.Module] = {layer: _folded(layer) for _, layer in nd_layers(folded)}
    if not replacements:
        raise ValueError("fold_ndpp: the model has no ND++ layer (was it converted with convert_to_ndpp?)")
    if folded in replacements:
        return replacements[folded]  # type: ignore[index, return-value]
    replace_modules(folded, replacements)
    # A plain layer does not say what it has made. Where that was never asked for in vain, nothing needs a copy.
    plain: dict[nn.Module, nn.Module] = {
        m: nn.Identity() for m in folded.modules() if isinstance(m, PassThrough) and _is_safe(m)
    }
    replace_modules(folded, plain)
    for module in folded.modules():
        unwatch_steps(module)
    folded.eval()  # its result is not to be relied on: MMSegmentation's ResNet returns None
    return folded


def _folded(layer: NDLayer) -> nn.Module:
    """The folded layer, with what users have hung on the ND++ layer."""
    folded = fold_layer(layer)
    kind = LINEAR_TYPES[linear_kind(layer) or ""]
    carry_over(layer, folded, kind, but=ND_ATTRIBUTES)
    return folded


def _is_safe(stand_in: PassThrough) -> bool:
    return type(stand_in.source) in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear) and stand_in.copies is False
