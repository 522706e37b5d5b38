"""Replacing modules inside a model, wherever they are held."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

__all__ = ["replace_modules"]


def replace_modules(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    """Replaces submodules by identity, in place.

    A module is replaced under every name that it has, and in the plain lists, tuples and dictionaries that modules
    keep beside their registered children: Detectron2's FPN runs its convolutions from such lists, and registering a
    new child alone would leave it running the old one.

    Args:
        model: The model; it cannot itself be among the replaced.
        replacements: Old module to new module.
    """
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and child in replacements:
                parent._modules[name] = replacements[child]
        for name, value in list(vars(parent).items()):
            if name not in ("_modules", "_parameters", "_buffers"):
                vars(parent)[name] = _replaced(value, replacements)


def _replaced(value: Any, replacements: Mapping[nn.Module, nn.Module]) -> Any:
    """The value with modules replaced; lists and dictionaries keep their identity."""
    if isinstance(value, nn.Module):
        return replacements.get(value, value)
    if type(value) is list:
        value[:] = [_replaced(item, replacements) for item in value]
    elif type(value) is dict:
        value.update({key: _replaced(item, replacements) for key, item in value.items()})
    elif type(value) is tuple:
        items = tuple(_replaced(item, replacements) for item in value)
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    return value
