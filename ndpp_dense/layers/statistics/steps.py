"""Where a step begins and ends, for layers that count steps (``"every=T"``) or exchange moments then (``"stale"``).

A step is a forward pass of the model that was converted. So no training loop needs to say anything, whatever calls the
model: hooks of the model itself do. Layers that a program runs by themselves, past the model, are steps of their own.
Only a loop that makes an optimizer step from several forward passes says which of them belong together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ndpp_dense.layers.statistics.whitening import Whitening
from ndpp_dense.ops.eager import never_compiled
from ndpp_dense.ops.recomputation import in_backward

__all__ = ["micro_batch_of_step", "settle_stats", "unwatch_steps", "watch_steps"]


def watch_steps(model: nn.Module) -> None:
    """Makes a forward pass of ``model`` in training one step of all the layers below it.

    Under ``"stale"`` they exchange their moments together, under ``"every=T"`` they update together. A pass that raises
    is a step too, so that layers before and behind the error, and other ranks, go on together.
    """
    if _begin not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_begin)
        model.register_forward_hook(_end)
        model.register_forward_hook(_fail, always_call=True)


def unwatch_steps(model: nn.Module) -> None:
    """Takes back :func:`watch_steps`."""
    for hooks in (model._forward_pre_hooks, model._forward_hooks):
        for key in [key for key, hook in hooks.items() if hook in (_begin, _end, _fail)]:
            del hooks[key]
            model._forward_hooks_always_called.pop(key, None)


def settle_stats(module: nn.Module) -> None:
    """Waits for the statistics that are under way (``schedule="stale"``), so that buffers hold all steps.

    Whatever saves, copies or moves a layer, or switches it to evaluation, does so by itself; it is for who reads or
    writes buffers otherwise, and for who captures a CUDA graph. No rank needs to wait for another to call it.

    Args:
        module: A model or a part of it.
    """
    for state in _states(module):
        state.settle()


@contextmanager
def micro_batch_of_step(model: nn.Module, index: int, count: int) -> Iterator[None]:
    """The forward pass inside the block is one of several that make up an optimizer step (gradient accumulation).

    Under ``schedule="stale"`` mean and D are the same for all micro-batches of a step, and the rows of all of them move
    the statistics once, in one exchange during the backward pass of the last: it makes no difference into how many
    micro-batches, or among how many ranks, a batch is cut. (A layer without statistics, in the first step that is,
    takes those of the first micro-batch; :func:`ndpp_dense.micro_batches_of_step` avoids that. A layer that samples
    more densely where rows are few takes all micro-batches to be as large as this one.) Every rank must have as many
    micro-batches.

    Under the other schedules a layer whitens by what it sees now, and cannot see the micro-batches to come: the first
    moves the statistics, and the others use them, as in :func:`ndpp_dense.hold_stats`.

    Args:
        model: The converted model, or one that holds it.
        index: Which micro-batch, from 0 to ``count - 1``, in order; 0 begins a step, whatever became of the one before.
        count: How many there are, >= 1.

    Raises:
        ValueError: ``index`` is out of range.
    """
    if not 0 <= index < count:
        raise ValueError(f"micro_batch_of_step: micro-batch {index} of {count} does not exist (0 to {count - 1}).")
    if count == 1:
        yield
        return
    states = _states(model)
    held = [state for state in states if not state.enter_micro_batch(index, count)]
    for state in held:
        state.hold()
    try:
        yield
    except BaseException:
        for state in states:
            state.abandon_step()
        raise
    finally:
        for state in held:
            state.release()
    # Hooks have exchanged what a model has collected, but not what layers have that were run past it.
    complete = [state for state in states if state.leave_micro_batch()]
    Whitening.exchange(complete)


@never_compiled
def _begin(model: nn.Module, args: Any) -> None:
    if in_backward():  # activation checkpointing recomputes the whole model
        return
    Whitening.begin_steps(_states(model), model)


@never_compiled
def _end(model: nn.Module, args: Any, output: Any) -> None:
    if in_backward():
        return
    Whitening.exchange([state for state in _states(model) if state.end_step(model)])


@never_compiled
def _fail(model: nn.Module, args: Any, output: Any) -> None:
    """Runs behind :func:`_end`, when there is nothing left to do, and after an error in its place."""
    if in_backward():
        return
    for state in _states(model):
        state.fail_step(model)


def _states(model: nn.Module) -> list[Whitening]:
    return [module for module in model.modules() if isinstance(module, Whitening)]
