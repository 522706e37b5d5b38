"""Turning an ND++ model into plain layers for inference."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

from torch import nn

from ndpp_dense.conversion.module_surgery import replace_modules
from ndpp_dense.layers.base import nd_layers
from ndpp_dense.layers.folded import fold_layer
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
    replacements: dict[nn.Module, nn.Module] = {layer: fold_layer(layer) for _, layer in nd_layers(folded)}
    if not replacements:
        raise ValueError("fold_ndpp: the model has no ND++ layer (was it converted with convert_to_ndpp?)")
    if folded in replacements:
        return replacements[folded]  # type: ignore[index, return-value]
    replace_modules(folded, replacements)
    for module in folded.modules():
        unwatch_steps(module)
    folded.eval()  # its result is not to be relied on: MMSegmentation's ResNet returns None
    return folded
