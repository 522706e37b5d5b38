"""Where a step begins and ends, for layers whose moments travel together: ``schedule="stale"``.

A step is a forward pass of the model that was converted. So no training loop needs to say anything, whatever calls the
model: hooks of the model itself do. Layers that a program runs by themselves, past the model, are steps of their own.
Only a loop that makes an optimizer step from several forward passes says which of them belong together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ndpp_dense.layers.statistics.exchange import send
from ndpp_dense.layers.statistics.whitening import Whitening
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


@contextmanager
def portion_of_step(model: nn.Module, index: int, count: int) -> Iterator[None]:
    """The forward pass inside the block is one of several that make up an optimizer step (gradient accumulation).

    Under ``schedule="stale"`` mean and D are the same for all portions of a step, and the rows of all of them move the
    statistics once, in one exchange during the backward pass of the last: it makes no difference into how many
    portions, or among how many ranks, a batch is cut. (A layer without statistics, in the first step that is, takes
    those of the first portion; :func:`ndpp_dense.portions_of_step` avoids that. A layer that samples more densely where
    rows are few takes all portions to be as large as this one.) Every rank must have as many portions.

    Under the other schedules a layer whitens by what it sees now, and cannot see the portions to come: the first moves
    the statistics, and the others use them, as in :func:`ndpp_dense.hold_stats`.

    Args:
        model: The converted model, or one that holds it.
        index: Which portion, from 0 to ``count - 1``, in order; 0 begins a step, whatever became of the one before.
        count: How many there are, >= 1.

    Raises:
        ValueError: ``index`` is out of range.
    """
    if not 0 <= index < count:
        raise ValueError(f"portion_of_step: portion {index} of {count} does not exist (0 to {count - 1}).")
    if count == 1:
        yield
        return
    states = [module for module in model.modules() if isinstance(module, Whitening)]
    held = [state.held for state in states]
    for state in states:
        _enter_portion(state, index, count)
    try:
        yield
    except BaseException:  # the step is lost
        for state in states:
            state.collecting, state.collected, state.portions, state.portions_left = False, None, 1, 0
        raise
    finally:
        for state, before in zip(states, held, strict=True):
            state.held = before
    _leave_portion(states, last=index == count - 1)


@never_compiled
def _begin(model: nn.Module, args: Any) -> None:
    if in_backward():  # activation checkpointing recomputes the whole model
        return
    for state in _stale(model):
        if not (state.collecting and state.portions > 1):
            _begin_step(state)


def _begin_step(state: Whitening) -> None:
    state.collecting = state.collects()
    if state.collecting:
        state.collected, state.portions, state.portions_left = None, 1, 0


@never_compiled
def _end(model: nn.Module, args: Any, output: Any) -> None:
    if in_backward():
        return
    complete = [state for state in _stale(model) if state.collecting and state.portions_left == 0]
    for state in complete:
        state.collecting = False
    send(complete)


def _enter_portion(state: Whitening, index: int, count: int) -> None:
    """Under ``"stale"`` goes on collecting what the first portion began; whatever does not collect is held."""
    if index > 0:
        state.collecting = state.portions == count
        state.held = state.held or not state.collecting
    elif state.config.schedule == "stale":
        _begin_step(state)
        state.portions = count if state.collecting else 1
    state.portions_left = count - 1 - index


def _leave_portion(states: list[Whitening], last: bool) -> None:
    unsent = [state for state in states if state.collecting]  # by hooks: portions to come, or layers run past the model
    for state in unsent:
        state.collecting = False
    if last:
        for state in states:
            state.portions = 1
        send(unsent)


def _stale(model: nn.Module) -> list[Whitening]:
    return [m for m in model.modules() if isinstance(m, Whitening) and m.config.schedule == "stale"]
