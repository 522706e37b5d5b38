"""What a forward pass does: which layer feeds which norm, and what arrives at every layer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["TOLERANCE", "Arrival", "Trace", "refuse_bad_numbers", "refuse_difference", "replaced_outputs", "trace"]

TOLERANCE = 1e-5  # relative to the root mean square
OUTPUT = "the model's output"
_MARK = "_ndpp_source"  # attribute of an output tensor: the layer that made it, and its version then


class Arrival(NamedTuple):
    """A tensor at a layer: its size and two numbers that another tensor would hardly share."""

    name: str
    shape: tuple[int, ...]
    mean: float
    rms: float

    def differs(self, other: Arrival) -> bool:
        """Whether the other cannot be the same tensor, rounding aside."""
        margin = TOLERANCE * self.rms
        same = self.name == other.name and self.shape == other.shape
        return not (same and abs(self.mean - other.mean) <= margin and abs(self.rms - other.rms) <= margin)


@dataclass
class Trace:
    """One or several forward passes.

    Attributes:
        calls: How often each layer ran.
        sources: For every call of a norm, the layer whose untouched output it got, or None.
        arrivals: What came to the layers and norms, in order, and what the model returned.
    """

    calls: Counter[str] = field(default_factory=Counter)
    sources: dict[str, list[str | None]] = field(default_factory=dict)
    arrivals: list[Arrival] = field(default_factory=list)

    def layer_before(self, norm: str) -> str | None:
        """The layer whose every output goes to this norm, which gets nothing else; None if there is none such."""
        sources = set(self.sources.get(norm, [None]))
        layer = sources.pop()
        if sources or layer is None or self.calls[layer] != len(self.sources[norm]):
            return None
        rivals = [other for other, found in self.sources.items() if other != norm and layer in found]
        return None if rivals else layer

    def enter_layer(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Hook before a layer."""
        refuse_bad_numbers(name, args[0])
        self.calls[name] += 1
        self.arrivals.append(_arrival(name, args[0]))

    def leave_layer(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        """Hook behind a layer."""
        if not isinstance(module, nn.Linear) or output.dim() == 2:  # else its channels are not where norms look
            setattr(output, _MARK, (name, _version(output)))

    def enter_norm(self, name: str, parent: str | None, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Hook before a norm; ``parent`` is the layer that it is part of, if any."""
        source, version = getattr(args[0], _MARK, (None, None))
        written_to = version != _version(args[0])
        self.sources.setdefault(name, []).append(parent or (None if written_to else source))
        self.arrivals.append(_arrival(name, args[0]))


@torch.no_grad()
def trace(model: nn.Module, layers: list[str], norms: list[str], run: Callable[[], Any]) -> Trace:
    """Watches the layers and norms of a model during forward passes.

    A norm belongs to a layer if the tensor that it gets *is* the one that the layer returned, not written to since;
    names and the order of definition, by which one could guess, are a matter of style. A norm that is a child of a
    layer (Detectron2's convolutions) belongs to that one.

    Args:
        model: In evaluation mode.
        layers: Names of linear layers.
        norms: Names of norms.
        run: Runs the model; returns its outputs.
    """
    found, handles = Trace(), []
    for name in layers:
        layer = model.get_submodule(name)
        handles.append(layer.register_forward_pre_hook(partial(found.enter_layer, name)))
        handles.append(layer.register_forward_hook(partial(found.leave_layer, name)))
    for name in norms:
        parent = name.rpartition(".")[0]
        hook = partial(found.enter_norm, name, parent if parent in layers else None)
        handles.append(model.get_submodule(name).register_forward_pre_hook(hook))
    try:
        outputs = run()
    finally:
        for handle in handles:
            handle.remove()
    # Infinity may be meant here, as in masked scores.
    found.arrivals += [_arrival(OUTPUT, tensor.nan_to_num(0, 0, 0)) for tensor in _tensors(outputs)]
    return found


def refuse_bad_numbers(name: str, x: Tensor) -> None:
    """Raises ValueError where the input of a layer is not finite, or not precise enough to calibrate with."""
    if x.dtype in (torch.float16, torch.bfloat16):
        raise ValueError(f"The input of {name!r} is {x.dtype}: calibrate in float32 (model.float(), no autocast).")
    if not torch.isfinite(x).all():
        raise ValueError(
            f"The input of {name!r} holds NaN or infinity. Is the calibration data finite, and the checkpoint?"
        )


def refuse_difference(before: Trace, after: Trace, dropped: Iterable[str]) -> None:
    """Proves that folding norms left the computation as it was.

    Args:
        before: Of the original model.
        after: Of the converted model, its layers made to return what layer and norm returned in the original.
        dropped: Norms that are gone.

    Raises:
        ValueError: Something else arrives at a layer than before, with its name and that of the layer before it.
    """
    gone = set(dropped)
    expected = [arrival for arrival in before.arrivals if arrival.name not in gone]
    previous = "the input"
    for index, arrival in enumerate(expected):
        if index >= len(after.arrivals) or arrival.differs(after.arrivals[index]):
            got = after.arrivals[index] if index < len(after.arrivals) else "nothing"
            raise ValueError(
                f"Without its batch norms the model computes something else: {arrival.name!r} (after {previous!r}) "
                f"should get {arrival} and gets {got}. Is the output of a convolution used elsewhere than in its "
                "norm, or the model random in evaluation mode? Leave the layers concerned as they are with `rules`."
            )
        previous = arrival.name


@contextmanager
def replaced_outputs(model: nn.Module, stand_ins: Mapping[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Inside the block, layers return what their stand-ins make of the same input.

    Args:
        model: Any model.
        stand_ins: By name of the layer.
    """

    def hook(name: str) -> Callable[..., Tensor]:
        return lambda module, args, output: stand_ins[name](args[0])

    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in stand_ins]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _version(x: Tensor) -> int:
    """Grows whenever the tensor is written to; in inference mode nobody counts."""
    return 0 if x.is_inference() else x._version


def _arrival(name: str, x: Tensor) -> Arrival:
    values = x.detach().double()
    if not values.numel():
        return Arrival(name, tuple(x.shape), 0.0, 0.0)
    mean, square = torch.stack([values.mean(), values.square().mean()]).tolist()
    return Arrival(name, tuple(x.shape), mean, math.sqrt(square) if square > 0 else square)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The floating point tensors in a model's output, as far as it is of plain containers."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)
