"""Moments of a step on their way to the statistics of the next: ``schedule="stale"``.

What layers have collected in a step is summed over ranks by one asynchronous all-reduce (by none in one process), which
runs while the step goes on. On CUDA the new averages and D are computed meanwhile too, on a stream beside, for all
layers of one matrix size at once. In time, from left to right::

    step s                                      step s + 1
    forward: layer 1, 2, ... n    | backward    | forward: layer 1          2, ... n
    each collects its moments     |             | wait, then use and collect the same
                                  | launch                    |
    exchange of step s            |===== under way ===========| stored: averages and D with the rows of step s

An exchange is launched where the forward pass of the converted model ends (of the last micro-batch, if there are
several). It is waited for when the first of its layers runs again in training, or earlier if somebody asks for the
statistics (``settle_stats``; saving, copying, moving, evaluating). The numbers are the same whenever that is, so
nothing of it needs to be saved.

Where there is nothing to exchange, in one process on a CPU, each layer's statistics are computed by themselves when
they are waited for, and its new D is near when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ndpp_dense.layers.statistics.running import Running, RunningStatistics, write_all
from ndpp_dense.ops.averaging import Averages, average_moments, layer_of_block
from ndpp_dense.ops.collectives import start_sum_over_ranks
from ndpp_dense.ops.eager import made_once
from ndpp_dense.ops.inverse_sqrt import is_finite_by_block
from ndpp_dense.ops.moments import Moments, pack_moments, packed_size, unpack_moments
from ndpp_dense.ops.precision import full_precision

__all__ = ["Contribution", "Exchange", "launch"]

Item = TypeVar("Item")


class Contribution(NamedTuple):
    """What a layer brings to an exchange.

    Attributes:
        statistics: Of the layer.
        target: The tensors to be moved by the exchange: those that were its buffers when it collected, which need not
            be its own (``torch.func.functional_call``).
        moments: What it has collected; None if it did not run, which counts no row.
    """

    statistics: RunningStatistics
    target: Running
    moments: Moments | None


class _Batch(NamedTuple):
    """Layers whose statistics are computed together: of one matrix size, averaged and solved alike.

    Attributes:
        statistics: Of the layers.
        targets: Theirs.
        moments: Theirs, one behind the other.
    """

    statistics: Sequence[RunningStatistics]
    targets: Sequence[Running]
    moments: Moments


class Exchange:
    """The moments of one step of some layers, from launch until their statistics are stored.

    Args:
        contributions: Of layers on one device, of one data type, summed over the same ranks.

    Attributes:
        captured: Whether it is part of a CUDA graph that is being captured.
    """

    @torch.no_grad()
    def __init__(self, contributions: Sequence[Contribution]) -> None:
        first = contributions[0].statistics
        self._device = contributions[0].target.mean.device
        # Kept until they are waited for: the stream beside and the collective read from them.
        self._batches = [_joined(alike) for alike in _batches(contributions, self._device)]
        self._packed: Tensor | None = None
        self._sum: dist.Work | None = None
        self._found: list[tuple[Averages, Tensor]] | None = None
        self._beside: torch.cuda.Stream | None = None
        self.captured = self._device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        if first.ranks() > 1:
            self._packed = torch.cat([pack_moments(batch.moments) for batch in self._batches])
            self._sum = start_sum_over_ranks(self._packed, first.process_group)
        waits_in_caller = self._sum is not None and dist.get_backend(first.process_group) == "gloo"
        if self._device.type == "cuda" and not waits_in_caller:
            self._beside = _stream_beside(self._device)
            self._beside.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._beside):
                self._found = self._statistics()

    @torch.no_grad()
    def wait(self) -> None:
        """Returns when the statistics are stored; at once if they are.

        Raises:
            RuntimeError: A CUDA graph is being captured in which the exchange was not launched.
        """
        if not self._batches:
            return
        if self._beside is not None and not self.captured and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                'schedule="stale": statistics of the step before are still under way, and a CUDA graph captured now '
                "would store them again at every replay. Call settle_stats(model) before you capture."
            )
        if self._beside is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._beside)
        if self._singly():
            with full_precision(self._device):
                for batch, moments in zip(self._batches, self._summed(), strict=True):
                    batch.statistics[0].absorb(moments, batch.targets[0])
        else:
            for batch, found in zip(self._batches, self._found or self._statistics(), strict=True):
                write_all(batch.statistics, batch.targets, *found)
        self._batches, self._packed, self._sum, self._found = [], None, None, None

    def _singly(self) -> bool:
        """Whether layers are updated one by one, where they are."""
        return all(len(batch.targets) == 1 and batch.statistics[0].values_are_at_hand() for batch in self._batches)

    def _statistics(self) -> list[tuple[Averages, Tensor]]:
        """Averages and D after this step, by batch."""
        with full_precision(self._device):
            return [_statistics(batch, moments) for batch, moments in zip(self._batches, self._summed(), strict=True)]

    def _summed(self) -> list[Moments]:
        """Moments of all ranks, by batch."""
        if self._packed is None or self._sum is None:
            return [batch.moments for batch in self._batches]
        self._sum.wait()
        shapes = [(len(batch.targets), *batch.moments.total.shape) for batch in self._batches]
        parts = self._packed.split([packed_size(*shape) for shape in shapes])
        return [unpack_moments(part, *shape) for part, shape in zip(parts, shapes, strict=True)]


def launch(contributions: Sequence[Contribution]) -> list[Exchange]:
    """Begins to exchange what layers have collected in a step.

    Every rank must call it with the same layers, whether they ran on it or not.

    Returns:
        For each layer the exchange that it takes part in.
    """

    def companions(contribution: Contribution) -> Hashable:
        own, mean = contribution.statistics, contribution.target.mean
        alone = id(own) if _is_local(contribution) else None
        return mean.device, mean.dtype, own.process_group, own.ranks() > 1, alone

    launched: dict[int, Exchange] = {}
    for together in _grouped(contributions, companions):
        exchange = Exchange(together)
        if exchange.captured:
            exchange.wait()  # a replayed graph does not come back to wait for it
        launched.update({id(contribution.statistics): exchange for contribution in together})
    return [launched[id(contribution.statistics)] for contribution in contributions]


def _is_local(contribution: Contribution) -> bool:
    """Whether nothing is gained by an exchange with other layers."""
    return contribution.target.mean.device.type == "cpu" and contribution.statistics.ranks() == 1


def _statistics(batch: _Batch, moments: Moments) -> tuple[Averages, Tensor]:
    targets = batch.targets
    layers = layer_of_block(tuple(len(target.mean) for target in targets), moments.total.device)
    before = Averages(
        _cat([target.mean for target in targets]),
        _cat([target.cov for target in targets]),
        torch.stack([target.weight for target in targets]),
    )
    first = batch.statistics[0]
    assert first.momentum is not None
    averages, usable = average_moments(before, moments, first.momentum, layers)
    stored = _cat([target.whitening for target in targets])
    solved = first.solve(averages.cov)
    return averages, torch.where(is_finite_by_block(solved) & usable.view(-1, 1, 1), solved, stored)


def _joined(contributions: Sequence[Contribution]) -> _Batch:
    targets = [target for _, target, _ in contributions]
    every = [moments or _no_rows(target) for _, target, moments in contributions]
    counts = _counts(tuple(float(moments.count) for moments in every), targets[0].mean.dtype, targets[0].mean.device)
    total, outer = _cat([moments.total for moments in every]), _cat([moments.outer for moments in every])
    return _Batch([own for own, _, _ in contributions], targets, Moments(counts, total, outer))


def _no_rows(running: Running) -> Moments:
    zero = torch.zeros_like
    return Moments(0, zero(running.mean), zero(running.cov))


def _batches(contributions: Sequence[Contribution], device: torch.device) -> list[list[Contribution]]:
    """Layers to be computed together.

    On the CPU each by itself, without copies. On CUDA a few large batches instead of many small kernels.
    """
    if device.type == "cpu":
        return [[contribution] for contribution in contributions]

    def alike(contribution: Contribution) -> Hashable:
        own = contribution.statistics
        return contribution.target.mean.shape[1], own.momentum, own.config.eps, own.config.solver, own.config.num_iters

    return _grouped(contributions, alike)


def _grouped(items: Iterable[Item], key: Callable[[Item], Hashable]) -> list[list[Item]]:
    """Items of equal keys together, in the order in which they come."""
    groups: dict[Hashable, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


@made_once
def _counts(rows: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.cat([torch.full((1,), count, dtype=dtype, device=device) for count in rows])


def _cat(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tuple(tensors))


@lru_cache(maxsize=64)
def _stream_beside(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
