"""Replacing modules inside a model, wherever they are held."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from torch import nn

__all__ = ["carry_hooks", "carry_over", "evaluation", "extra_state", "replace_modules"]

_HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks"),
    *("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)


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


def _replaced(value: Any, replacements: Mapping[nn.Module, nn.Module], around: tuple[int, ...] = ()) -> Any:
    """The value with modules replaced; lists and dictionaries keep their identity, and may contain themselves."""
    if isinstance(value, nn.Module):
        return replacements.get(value, value)
    if id(value) in around or type(value) not in (list, dict, tuple):
        return value
    around = (*around, id(value))
    if type(value) is list:
        value[:] = [_replaced(item, replacements, around) for item in value]
    elif type(value) is dict:
        value.update({key: _replaced(item, replacements, around) for key, item in value.items()})
    elif type(value) is tuple:
        items = tuple(_replaced(item, replacements, around) for item in value)
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    return value


def carry_over(old: nn.Module, new: nn.Module, kind: type[nn.Module], but: Container[str] = ()) -> None:
    """Gives a replacement the hooks, attributes, buffers and children that the module had beyond those of its kind.

    Hooks stay removable by the handles that their owners hold.

    Args:
        old: The module that goes.
        new: What stands in its place.
        kind: PyTorch's class that ``old`` derives from.
        but: Attributes that are not to be carried over.
    """
    carry_hooks(old, new)
    for name, value in extra_state(old, kind).items():
        if name in but:
            continue
        if name in old._buffers:
            new.register_buffer(name, value, persistent=name not in old._non_persistent_buffers_set)
        else:
            setattr(new, name, value)


def carry_hooks(old: nn.Module, new: nn.Module) -> None:
    """The part of :func:`carry_over` that concerns hooks."""
    for name in _HOOKS:
        if getattr(old, name, None):
            setattr(new, name, getattr(old, name))
    new._is_full_backward_hook = old._is_full_backward_hook


def extra_state(module: nn.Module, kind: type[nn.Module]) -> dict[str, Any]:
    """Attributes, buffers, parameters and children that an instance has beyond those of a class of PyTorch's."""
    state = {**vars(module), **module._parameters, **module._buffers, **module._modules}
    return {name: value for name, value in state.items() if name not in _own_names(kind)}


@lru_cache(maxsize=16)
def _own_names(kind: type[nn.Module]) -> frozenset[str]:
    sizes = (1, 1) if issubclass(kind, nn.Linear) else (1, 1, 1)
    plain = kind(*sizes, device="meta")  # pyright: ignore[reportArgumentType]
    return frozenset({*vars(plain), *plain._parameters})


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Inside the block the model is in evaluation mode; every module is in its own mode again afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
