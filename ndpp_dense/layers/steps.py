"""Where a step begins and ends, for layers whose moments travel together: ``schedule="stale"``.

A step is a forward pass of the model that was converted. So no training loop needs to say anything, whatever calls the
model: hooks of the model itself do. Layers that a program runs by themselves, past the model, are steps of their own.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ndpp_dense.layers.flight import send
from ndpp_dense.layers.whitening import Whitening
from ndpp_dense.ops.eager import never_compiled
from ndpp_dense.ops.recomputation import in_backward


def watch_steps(model: nn.Module) -> None:
    """Lets the stale layers below ``model`` exchange their moments together, once per forward pass in training."""
    if _begin not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_begin)
        model.register_forward_hook(_end)


def unwatch_steps(model: nn.Module) -> None:
    """Takes back :func:`watch_steps`."""
    for hooks in (model._forward_pre_hooks, model._forward_hooks):
        for key in [key for key, hook in hooks.items() if hook in (_begin, _end)]:
            del hooks[key]


def settle_stats(module: nn.Module) -> None:
    """Lets the statistics that are under way arrive (``schedule="stale"``), so that buffers hold all steps.

    Whatever saves, copies or moves a layer, or switches it to evaluation, does so by itself; it is for who reads or
    writes buffers otherwise, and for who captures a CUDA graph. No rank needs to wait for another to call it.

    Args:
        module: A model or a part of it.
    """
    for state in module.modules():
        if isinstance(state, Whitening):
            state.settle()


@never_compiled
def _begin(model: nn.Module, args: Any) -> None:
    if in_backward():  # activation checkpointing recomputes the whole model
        return
    for state in _stale(model):
        state.collecting, state.collected = state.collects(), None
        if state.collecting:
            state.settle()


@never_compiled
def _end(model: nn.Module, args: Any, output: Any) -> None:
    if in_backward():
        return
    collecting = [state for state in _stale(model) if state.collecting]
    for state in collecting:
        state.collecting = False
    send(collecting)


def _stale(model: nn.Module) -> list[Whitening]:
    return [m for m in model.modules() if isinstance(m, Whitening) and m.config.schedule == "stale"]
