"""An input that a model may be run on where none is given: a picture, a clip or rows of features.

The model is not touched: a copy without data runs on the "meta" device, which computes shapes alone. Where that
fails, because the model looks at values, a copy with data runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ndpp_dense.conversion.dataflow import Dataflow, watch
from ndpp_dense.conversion.norm_pairs import is_linear_map

__all__ = ["Example", "runner", "watch_guessed"]

Example = Tensor | tuple[Any, ...] | Mapping[str, Any] | Callable[[nn.Module], Any]
_SIZES = (224, 64, 256, 384, 512)
_SMALL = 128
_TOO_LARGE = 50_000_000  # parameters of a model that is not copied with its data


def runner(example: Example) -> Callable[[nn.Module], Any]:
    """The function that calls a model with an example.

    Args:
        example: A tensor; a tuple of arguments; a mapping of keywords; or such a function.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(example, Tensor):
        return lambda model: model(example)
    if isinstance(example, tuple):
        return lambda model: model(*example)
    if isinstance(example, Mapping):
        return lambda model: model(**example)
    if not callable(example):
        raise ValueError(
            f"example = {example!r:.60} is not something to call a model with. Choices: a tensor, a tuple of "
            "arguments, a mapping of keywords, or a function that takes the model and runs it."
        )
    return example


def watch_guessed(model: nn.Module) -> Dataflow | None:
    """Watches a copy of the model on a guessed input; None where no guess runs.

    Args:
        model: Any model; it is left as it is.
    """
    tensors = [*model.parameters(), *model.buffers()]
    if any(nn.parameter.is_lazy(tensor) for tensor in tensors):  # would take on the shape of a guess
        return None
    small = sum(tensor.numel() for tensor in tensors) <= _TOO_LARGE and not any(tensor.is_meta for tensor in tensors)
    devices = {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
    with warnings.catch_warnings(), torch.random.fork_rng(devices):
        warnings.simplefilter("ignore")
        for on_meta in (True, False) if small else (True,):
            try:
                copy = _copied(model, on_meta)
            except Exception:  # noqa: BLE001  (what cannot be copied is not watched)
                return None
            for inputs in _guesses(copy, on_meta):
                try:
                    with torch.device("meta") if on_meta else nullcontext():
                        return watch(copy, lambda m, inputs=inputs: m(inputs))
                except Exception as error:  # noqa: BLE001, PERF203  (foreign code, on an input of our making)
                    if on_meta and "meta" in str(error).lower():  # it looks at values: other sizes do not help
                        break
    return None


def _copied(model: nn.Module, on_meta: bool) -> nn.Module:
    """A copy without hooks, which may be about the model itself; its tensors without data where it is for meta."""
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()) if on_meta else ():
        bare = torch.empty_like(tensor, device="meta", requires_grad=False)
        memo[id(tensor)] = nn.Parameter(bare, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else bare
    copy = deepcopy(model, memo)
    transform = getattr(copy, "transform", None)
    if hasattr(transform, "min_size"):  # torchvision's detectors enlarge pictures to this
        transform.min_size = (_SMALL,)  # type: ignore[union-attr]
    for module in copy.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            hooks.clear()
        for name, value in list(vars(module).items()) if on_meta else ():
            if isinstance(value, Tensor):
                vars(module)[name] = value.to("meta")
    return copy


def _guesses(model: nn.Module, on_meta: bool) -> Iterator[Any]:
    """Inputs for the first layer of a model, in the order in which they are to be tried."""
    first = next((m for m in model.modules() if is_linear_map(m)), None)
    if first is None:
        return
    weight: Any = first.weight
    make = {"device": "meta" if on_meta else weight.device, "dtype": weight.dtype}
    if isinstance(first, nn.Linear):
        for shape in ((2,), (2, 5)):
            yield torch.randn(*shape, first.in_features, **make)
        return
    assert isinstance(first, _ConvNd)
    sizes = [*_named_size(model), *(_SIZES if on_meta else _SIZES[:2])]
    for channels in dict.fromkeys((first.in_channels, 3)):  # the first by name need not be the first to run
        for size in sizes:
            sides = {1: (size,), 2: (size, size), 3: (16, size, size)}[weight.dim() - 2]
            yield torch.randn(2, channels, *sides, **make)


def _named_size(model: nn.Module) -> list[int]:
    """The size of pictures that a model says it is for, as timm's and others do."""
    config = getattr(model, "pretrained_cfg", None)
    said = config.get("input_size") if isinstance(config, dict) else None
    said = said or getattr(model, "image_size", None) or getattr(getattr(model, "config", None), "image_size", None)
    said = said[-1] if isinstance(said, tuple | list) and said else said
    return [said] if isinstance(said, int) else []
