"""What one forward pass of a model shows of its layers and norms, that their names and places do not.

Which layer made what a norm gets, where a norm's output goes, which layers run at several sizes, and whose weights are
read by others. Operations are watched below autograd, so that functions count as well as modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from ndpp_dense.conversion.module_surgery import evaluation
from ndpp_dense.conversion.norm_pairs import is_linear_map, out_channels
from ndpp_dense.conversion.probe import is_norm, norm_features

__all__ = ["Dataflow", "watch"]

# Operations that leave the values and the number of channels as they are.
_VIEWS = frozenset(
    ("view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "unsqueeze", "squeeze")
    + ("alias", "detach", "clone", "contiguous", "_to_copy", "lift_fresh")
)
# Functions of one value: what they return still is, position by position, what the norm returned.
_ACTIVATIONS = frozenset(
    ("relu", "gelu", "silu", "elu", "mish", "tanh", "sigmoid", "hardtanh", "hardswish", "hardsigmoid", "leaky_relu")
    + ("softplus", "celu", "selu", "prelu", "_prelu_kernel", "log_sigmoid", "clamp", "clamp_min", "clamp_max")
    + ("mul", "add", "div", "sub")  # of a value with itself, as in x * sigmoid(x), or with a constant
)


@dataclass
class Dataflow:
    """One forward pass.

    Attributes:
        sizes: Linear layer -> the sizes, between samples and channels, at which it ran.
        read: Linear layers whose weight or bias something else has read.
        before: Norm -> for every call, the layers whose untouched outputs, beside one another, it got.
        after: Norm -> where its output went, through activations: names of linear layers; None for anything else.
    """

    sizes: dict[str, set[tuple[int, ...]]] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    before: dict[str, set[tuple[str, ...]]] = field(default_factory=dict)
    after: dict[str, set[str | None]] = field(default_factory=dict)

    def partners(self, norm: str) -> tuple[tuple[str, ...], bool] | None:
        """The layers that a norm belongs to, and whether they come before it; None if it did not run.

        Those whose untouched output it normalises; else those that get its output, if nothing else does.
        """
        if norm not in self.before:
            return None
        before = self.before[norm]
        if () not in before:
            return tuple(dict.fromkeys(name for names in sorted(before) for name in names)), True
        after = self.after.get(norm, set())
        return ((), False) if None in after else (tuple(sorted(name for name in after if name)), False)


class _Watch(TorchDispatchMode):
    """Follows tensors from layer to norm and from norm to layer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.flow = Dataflow()
        self.inside: list[nn.Module] = []  # the linear maps and norms that run just now
        self._running: list[nn.Module] = []
        self._made = WeakTensorKeyDictionary()  # tensor -> linear maps that made it
        self._normed = WeakTensorKeyDictionary()  # tensor -> norm that it comes from
        self._owners: dict[int, list[tuple[str, nn.Module]]] = {}
        for name, module in model.named_modules():
            for parameter in module.parameters(recurse=False):
                self._owners.setdefault(id(parameter), []).append((name, module))
        self._linear = {module for module in model.modules() if is_linear_map(module)}
        self._channels = {name: out_channels(m) for name, m in model.named_modules() if m in self._linear}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation of PyTorch and notes where its result comes from."""
        kwargs = kwargs or {}
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self._note_reads(inputs)
        output = func(*args, **kwargs)
        if not self.inside and isinstance(output, Tensor):
            self._follow(func.overloadpacket.__name__.rstrip("_"), args, inputs, output)
        elif not self.inside:
            self._end(inputs)
        return output

    def _note_reads(self, inputs: list[Tensor]) -> None:
        for tensor in inputs:
            owners = self._owners.get(id(tensor), ())
            if owners and not any(module in self._running for _, module in owners):
                self.flow.read |= {name for name, module in owners if module in self._linear}

    def _follow(self, name: str, args: Any, inputs: list[Tensor], output: Tensor) -> None:
        """Outside of all layers and norms: carries on what is known of the inputs."""
        made = [self._made.get(tensor) for tensor in inputs]
        norms = {self._normed.get(tensor) for tensor in inputs if tensor.dim() > 1} - {None}
        same_size = bool(inputs) and output.numel() == inputs[0].numel()
        if name in _VIEWS and same_size:
            self._note(self._made, output, made[0])
        elif name == "cat" and all(made):
            self._note(self._made, output, tuple(layer for layers in made for layer in layers or ()))
        elif output in self._made and any(tensor is output for tensor in inputs):
            del self._made[output]  # written to
        alone = len(norms) == 1 and all(self._normed.get(tensor) in norms for tensor in inputs if tensor.dim() > 1)
        if alone and same_size and name in _VIEWS | _ACTIVATIONS:
            self._note(self._normed, output, norms.pop())
        else:
            self._end(inputs)

    def _end(self, inputs: list[Tensor]) -> None:
        """What a norm returned goes into something that is neither an activation nor a linear layer."""
        for tensor in inputs:
            norm = self._normed.get(tensor)
            if norm is not None:
                self.flow.after.setdefault(norm, set()).add(None)

    @staticmethod
    def _note(table: WeakTensorKeyDictionary, tensor: Tensor, value: Any) -> None:
        if value is not None:
            table[tensor] = value

    def run(self, name: str, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Takes the place of a module's forward."""
        first = next((leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)), None)
        linear, norm = module in self._linear, is_norm(module)
        if (linear or norm) and not self.inside and first is not None:
            self._enter(name, module, first)
        self._running.append(module)
        if linear or norm:
            self.inside.append(module)
        try:
            output = forward(*args, **kwargs)
        finally:
            self._running.pop()
            if linear or norm:
                self.inside.pop()
        if (linear or norm) and not self.inside and isinstance(output, Tensor):
            with suppress(KeyError):
                del self._made[output]
            self._note(self._made, output, (name,) if linear else None)
            self._note(self._normed, output, name if norm else None)
        return output

    def _enter(self, name: str, module: nn.Module, x: Tensor) -> None:
        source = self._normed.get(x)
        if module in self._linear:
            size = x.shape[1:-1] if isinstance(module, nn.Linear) else x.shape[2:]
            self.flow.sizes.setdefault(name, set()).add(tuple(size))
        if source is not None:
            self.flow.after.setdefault(source, set()).add(name if module in self._linear else None)
        if module not in self._linear:
            layers = self._made.get(x) or ()
            whole = sum(self._channels[layer] for layer in layers) == norm_features(module)
            self.flow.before.setdefault(name, set()).add(layers if whole else ())

    def finish(self, outputs: Any) -> Dataflow:
        """The findings; what the model returns is used by whoever called it."""
        self._end([leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)])
        return self.flow


def watch(model: nn.Module, run: Callable[[nn.Module], Any]) -> Dataflow:
    """Watches a forward pass in evaluation mode, without gradients.

    Args:
        model: Any model.
        run: Runs it.
    """
    seen = _Watch(model)
    with evaluation(model), torch.no_grad(), _no_fused_attention(), _forwards_watched(model, seen), seen:
        return seen.finish(run(model))


@contextmanager
def _forwards_watched(model: nn.Module, seen: _Watch) -> Iterator[None]:
    """Puts :meth:`_Watch.run` before the forward of whatever holds parameters, also where it is called by name."""
    changed: list[tuple[nn.Module, dict[str, Any]]] = []
    try:
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule) or not _is_watched(module):
                continue
            own = {key: value for key, value in vars(module).items() if key == "forward"}
            changed.append((module, own))
            vars(module)["forward"] = partial(seen.run, name, module, module.forward)
        yield
    finally:
        for module, own in changed:
            del vars(module)["forward"]
            vars(module).update(own)


def _is_watched(module: nn.Module) -> bool:
    return is_norm(module) or next(module.parameters(recurse=False), None) is not None


@contextmanager
def _no_fused_attention() -> Iterator[None]:
    """Keeps PyTorch's transformer layers from the fused kernel, which they do not use once they are converted."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
