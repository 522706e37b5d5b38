"""Which linear layer a norm belongs to, from where the two stand in the model.

For norms that no forward pass has reached; :mod:`ndpp_dense.conversion.dataflow` knows better.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd

from ndpp_dense.conversion.probe import norm_features
from ndpp_dense.conversion.rules import LINEAR_TYPES

__all__ = ["find_partner", "is_linear_map", "linear_kind", "out_channels"]


def linear_kind(module: nn.Module) -> str | None:
    """The key of ``LINEAR_TYPES``, such as ``"Conv2d"``, for these and their subclasses; else None."""
    return next((kind for kind, cls in LINEAR_TYPES.items() if isinstance(module, cls)), None)


def is_linear_map(module: nn.Module) -> bool:
    """Whether a module is a linear layer or a convolution of any dimension, with an ND++ form or without."""
    return isinstance(module, nn.Linear | _ConvNd)


def out_channels(layer: nn.Module) -> int:
    """Channels (or features) of what a linear map returns."""
    return _channels(layer, "out")


def find_partner(name: str, model: nn.Module) -> tuple[str | None, bool]:
    """The layer that a norm belongs to: the nearest sibling before it with as many outputs, else the next after it.

    An ``nn.Sequential`` counts as the layer that it ends with (before the norm) or begins with (after it), as the deep
    stem of a ResNet, and a norm at the beginning of one as standing where that one stands. Other containers may do
    anything between their layers and the norm, and are passed over.

    Args:
        name: Of the norm.
        model: The model that it is part of.

    Returns:
        Name of the layer or None, and whether it comes before the norm.
    """
    norm = model.get_submodule(name)
    features = norm_features(norm)
    child, first = norm, True
    while name and first:
        parent_name = name.rpartition(".")[0]
        parent = model.get_submodule(parent_name)
        siblings = list(parent.named_children())
        position = next(i for i, (_, sibling) in enumerate(siblings) if sibling is child)
        before, after = siblings[:position], siblings[position + 1 :]
        for own, sibling in reversed(before):
            path, layer = _outermost(own, sibling, last=True)
            if is_linear_map(layer) and _channels(layer, "out") == features:
                return _join(parent_name, path), True
        for own, sibling in after if child is norm else ():
            path, layer = _outermost(own, sibling, last=False)
            if is_linear_map(layer) and _channels(layer, "in") == features:
                return _join(parent_name, path), False
        child, name, first = parent, parent_name, position == 0 and type(parent) is nn.Sequential
    return None, False


def _outermost(name: str, module: nn.Module, last: bool) -> tuple[str, nn.Module]:
    """What a chain ends (or begins) with, by name; anything else is itself."""
    while type(module) is nn.Sequential and len(module):
        own, module = list(module.named_children())[-1 if last else 0]
        name = _join(name, own)
    return name, module


def _join(parent: str, child: str) -> str:
    return f"{parent}.{child}" if parent else child


def _channels(layer: nn.Module, side: str) -> int:
    return getattr(layer, f"{side}_features" if isinstance(layer, nn.Linear) else f"{side}_channels")
