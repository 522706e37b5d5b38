"""Moments of a step on their way to the statistics of the next: ``schedule="stale"``.

What layers have collected in a step leaves in one collective (none in one process) and is under way while backward
runs. On CUDA the new averages and D are computed meanwhile too, on a stream of their own, for all layers of one matrix
size at once; on the CPU when they land. They land when the first of the layers runs again, or earlier if somebody asks
for the statistics: the numbers are the same, whenever it happens, so nothing of it needs to be saved. Where there is
nothing to exchange, in one process on a CPU, each layer's land by themselves, and its new D is near when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ndpp_dense.layers.statistics.averaging import update_in_place, values_are_at_hand
from ndpp_dense.ops.averaging import Averages, average_moments, layer_of_block
from ndpp_dense.ops.collectives import start_sum_over_ranks
from ndpp_dense.ops.moments import Moments, pack_moments, packed_size, unpack_moments
from ndpp_dense.ops.precision import full_precision

if TYPE_CHECKING:
    from ndpp_dense.layers.statistics.whitening import Whitening

Item = TypeVar("Item")


class _Batch(NamedTuple):
    """Layers whose statistics are computed together: of one matrix size, averaged and solved alike."""

    states: Sequence[Whitening]
    moments: Moments


class Flight:
    """The moments of one step of some layers.

    Args:
        states: On one device, of one data type, summed over the same ranks; those that did not run count no row.

    Attributes:
        captured: Whether it is part of a CUDA graph that is being captured.
    """

    @torch.no_grad()
    def __init__(self, states: Sequence[Whitening]) -> None:
        self._states = states
        self._device = states[0].running_mean.device
        # Kept until landing, for the stream beside and the collective read from them.
        self._batches = [_Batch(alike, _joined(alike)) for alike in _batches(states, self._device)]
        self._packed: Tensor | None = None
        self._sum: dist.Work | None = None
        self._found: list[tuple[Averages, Tensor]] | None = None
        self._beside: torch.cuda.Stream | None = None
        self.captured = self._device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        group = states[0].process_group
        if states[0].ranks() > 1:
            self._packed = torch.cat([pack_moments(batch.moments) for batch in self._batches])
            self._sum = start_sum_over_ranks(self._packed, group)
        waits_in_caller = self._sum is not None and dist.get_backend(group) == "gloo"
        if self._device.type == "cuda" and not waits_in_caller:
            self._beside = _stream_beside(self._device)
            self._beside.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._beside):
                self._found = self._statistics()

    @torch.no_grad()
    def land(self) -> None:
        """Puts the statistics into the layers.

        Raises:
            RuntimeError: A CUDA graph is being captured in which the flight did not begin.
        """
        if self._beside is not None and not self.captured and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                'schedule="stale": statistics of the step before are still under way, and a CUDA graph captured now '
                "would put them in place again at every replay. Call settle_stats(model) before you capture."
            )
        if self._beside is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._beside)
        if self._singly():
            with full_precision(self._device):
                for batch, moments in zip(self._batches, self._summed(), strict=True):
                    update_in_place(batch.states[0], moments)
        else:
            for batch, found in zip(self._batches, self._found or self._statistics(), strict=True):
                _store(batch.states, *found)
        for state in self._states:
            state.flight = None

    def _singly(self) -> bool:
        """Whether layers are updated one by one, where they are."""
        return all(len(batch.states) == 1 and values_are_at_hand(batch.states[0]) for batch in self._batches)

    def _statistics(self) -> list[tuple[Averages, Tensor]]:
        """Averages and D after this step, by batch."""
        with full_precision(self._device):
            summed = zip(self._batches, self._summed(), strict=True)
            return [_statistics(batch.states, moments) for batch, moments in summed]

    def _summed(self) -> list[Moments]:
        """Moments of all ranks, by batch."""
        if self._packed is None or self._sum is None:
            return [batch.moments for batch in self._batches]
        self._sum.wait()
        shapes = [(len(batch.states), *batch.moments.total.shape) for batch in self._batches]
        parts = self._packed.split([packed_size(*shape) for shape in shapes])
        return [unpack_moments(part, *shape) for part, shape in zip(parts, shapes, strict=True)]


def send(states: Iterable[Whitening]) -> None:
    """Lets go what layers have collected in a step.

    Every rank must call it with the same layers, whether they ran on it or not.
    """

    def companions(state: Whitening) -> Hashable:
        alone = id(state) if _lands_alone(state) else None
        return state.running_mean.device, state.running_mean.dtype, state.process_group, state.ranks() > 1, alone

    for together in _grouped(states, companions):
        for state in together:
            state.settle()  # a layer that did not run in this step has not asked for those of the step before
        flight = Flight(together)
        for state in together:
            state.flight, state.collected = flight, None
        if flight.captured:
            flight.land()  # a replayed graph does not come back to land it


def _lands_alone(state: Whitening) -> bool:
    """Whether nothing is gained by landing with other layers."""
    return state.running_mean.device.type == "cpu" and state.ranks() == 1


def _statistics(states: Sequence[Whitening], moments: Moments) -> tuple[Averages, Tensor]:
    first, device = states[0], moments.total.device
    layers = layer_of_block(tuple(len(state.running_mean) for state in states), device)
    before = Averages(
        _cat([state.running_mean for state in states]),
        _cat([state.running_cov for state in states]),
        torch.stack([state.running_weight for state in states]),
    )
    assert first.momentum is not None
    averages, usable = average_moments(before, moments, first.momentum, layers)
    stored = _cat([state.running_whitening for state in states])
    return averages, torch.where(usable.view(-1, 1, 1), first.solve(averages.cov), stored)


def _store(states: Sequence[Whitening], averages: Averages, whitening: Tensor) -> None:
    blocks = [len(state.running_mean) for state in states]
    _copy([state.running_mean for state in states], averages.mean.split(blocks))
    _copy([state.running_cov for state in states], averages.cov.split(blocks))
    _copy([state.running_whitening for state in states], whitening.split(blocks))
    _copy([state.running_weight for state in states], averages.weight.unbind())


def _joined(states: Sequence[Whitening]) -> Moments:
    """What the layers have collected, one behind the other."""
    every = [state.collected or _no_rows(state) for state in states]
    counts = torch.stack([moments.count for moments in every])
    return Moments(counts, _cat([moments.total for moments in every]), _cat([moments.outer for moments in every]))


def _no_rows(state: Whitening) -> Moments:
    zero = torch.zeros_like
    return Moments(zero(state.running_weight), zero(state.running_mean), zero(state.running_cov))


def _batches(states: Sequence[Whitening], device: torch.device) -> list[list[Whitening]]:
    """Layers to be computed together.

    On the CPU each by itself, without copies. On CUDA a few large batches instead of many small kernels.
    """
    if device.type == "cpu":
        return [[state] for state in states]

    def alike(state: Whitening) -> Hashable:
        config = state.config
        return state.running_mean.shape[1], state.momentum, config.eps, config.solver, config.num_iters

    return _grouped(states, alike)


def _grouped(items: Iterable[Item], key: Callable[[Item], Hashable]) -> list[list[Item]]:
    """Items of equal keys together, in the order in which they come."""
    groups: dict[Hashable, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _cat(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tuple(tensors))


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copies many tensors in few kernels."""
    torch._foreach_copy_(list(targets), list(sources))  # pyright: ignore[reportPrivateImportUsage]


@lru_cache(maxsize=64)
def _stream_beside(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
