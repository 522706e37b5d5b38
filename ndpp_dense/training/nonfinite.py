"""Find the layer in which a diverged training turned non-finite."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ndpp_dense.layers.base import nd_layers
from ndpp_dense.layers.model_statistics import hold_stats

__all__ = ["NonFiniteLayer", "divergence_message", "first_nonfinite_layer", "nonfinite_parameters"]


@dataclass(frozen=True)
class NonFiniteLayer:
    """The first layer whose output was not finite, and the state of what went into it.

    Args:
        name: its name in the model.
        kind: its class.
        bad_inputs: whether any input was non-finite already.
        bad_weights: names of its own parameters that hold NaN or infinity.
        bad_buffers: the same for its own buffers (running statistics).
    """

    name: str
    kind: str
    bad_inputs: bool
    bad_weights: tuple[str, ...]
    bad_buffers: tuple[str, ...]

    def __str__(self) -> str:
        weights = f"non-finite weights {', '.join(self.bad_weights)}" if self.bad_weights else "finite weights"
        buffers = f"non-finite buffers {', '.join(self.bad_buffers)}" if self.bad_buffers else "finite buffers"
        inputs = "non-finite input" if self.bad_inputs else "finite input"
        return f"'{self.name}' ({self.kind}) with {inputs}, {weights}, {buffers}"


def first_nonfinite_layer(
    model: nn.Module, forward: Callable[[], Any], *, alone: bool = False
) -> NonFiniteLayer | None:
    """Run a forward pass once more and watch the output of every layer.

    Args:
        model: the model that `forward` runs.
        forward: repeats the step that went wrong. No gradients are kept.
        alone: only this process repeats the step. Layers that exchange statistics with other ranks then use their
            stored ones, because the others would not answer.

    Returns:
        The innermost layer that was first to put out NaN or infinity; None if every output was finite.
    """
    found: list[NonFiniteLayer] = []

    def watch(name: str) -> Callable[..., None]:
        def check(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and not _all_finite(output):
                found.append(_describe(name, module, inputs))

        return check

    handles = [module.register_forward_hook(watch(name or "the model")) for name, module in model.named_modules()]
    try:
        # A model may itself raise on what is not finite (Detectron2 does), by which time the layer is known.
        with torch.no_grad(), _quiet_statistics(model, alone), contextlib.suppress(FloatingPointError):
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def nonfinite_parameters(model: nn.Module) -> list[str]:
    """Return the names of the parameters that hold NaN or infinity."""
    return _bad_names(model.named_parameters())


def divergence_message(
    iteration: int, cause: str, layer: NonFiniteLayer | None, good_checkpoint: str | None, advice: str
) -> str:
    """Tell the user what happened, where, what is saved and what to try.

    Args:
        iteration: the iteration that failed, from 0.
        cause: what was seen, such as the values of the losses.
        layer: result of :func:`first_nonfinite_layer`.
        good_checkpoint: last checkpoint written before, if any.
        advice: what to try, in the words of the framework.
    """
    where = (
        f"The first layer with a non-finite output is {layer}."
        if layer
        else "Repeating the step gave finite layer outputs: the loss itself overflowed, or a rare random choice did."
    )
    saved = "There is no checkpoint yet."
    if good_checkpoint:
        saved = f"The last good checkpoint is {good_checkpoint}; nothing was saved over it."
    return f"training diverged at iteration {iteration}: {cause.rstrip('.')}. {where} {saved} {advice}"


def _describe(name: str, module: nn.Module, inputs: Any) -> NonFiniteLayer:
    return NonFiniteLayer(
        name=name,
        kind=type(module).__name__,
        bad_inputs=not _all_finite(inputs),
        bad_weights=tuple(_bad_names(module.named_parameters(recurse=False))),
        bad_buffers=tuple(_bad_names(module.named_buffers(recurse=False))),
    )


def _bad_names(named: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
    return [name for name, tensor in named if not _all_finite(tensor)]


def _all_finite(value: Any) -> bool:
    return all(bool(torch.isfinite(t).all()) for t in _tensors(value))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the floating point tensors in nested containers, those of frameworks included."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif hasattr(value, "get_fields"):  # Detectron2's Instances
        yield from _tensors(list(value.get_fields().values()))
    elif isinstance(getattr(value, "tensor", None), torch.Tensor):  # its Boxes, ImageList
        yield value.tensor


@contextlib.contextmanager
def _quiet_statistics(model: nn.Module, alone: bool) -> Iterator[None]:
    """Update no running statistics and, where asked for, keep normalising layers from collective communication."""
    layers: list[nn.Module] = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    layers += [layer for _, layer in nd_layers(model)]
    switched = [layer for layer in layers if alone and layer.training]
    with hold_stats(model):
        for layer in switched:
            layer.eval()
        try:
            yield
        finally:
            for layer in switched:
                layer.train()
