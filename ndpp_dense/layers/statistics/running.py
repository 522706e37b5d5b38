"""The running statistics of a layer: mean and covariance of its data matrix, and the matrix D that whitens it.

Shape suffixes: see ``ndpp_dense.ops.moments``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from ndpp_dense.layers.config import WhiteningConfig
from ndpp_dense.layers.statistics.stored import Stored
from ndpp_dense.ops.averaging import (
    MIN_ROWS,
    Averages,
    move_averages,
    moved_averages,
    share_of_step,
    squared_magnitude,
)
from ndpp_dense.ops.collectives import world_size
from ndpp_dense.ops.eager import never_compiled, runs_eagerly
from ndpp_dense.ops.inverse_sqrt import SOLVERS, is_finite_by_block, ridged
from ndpp_dense.ops.moments import Moments
from ndpp_dense.ops.newton import at_once
from ndpp_dense.ops.precision import full_precision

__all__ = ["Running", "RunningStatistics", "write_all"]


class Running(NamedTuple):
    """The tensors that hold running statistics: a module's buffers, or what stands in for them for one call.

    Attributes:
        mean: ``(G, D)``.
        cov: ``(G, D, D)``.
        whitening: ``(G, D, D)``.
        weight: Scalar.
    """

    mean: Tensor
    cov: Tensor
    whitening: Tensor
    weight: Tensor

    @property
    def averages(self) -> Averages:
        """What is averaged."""
        return Averages(self.mean, self.cov, self.weight)


class RunningStatistics(nn.Module):
    """Running mean, covariance and D of a layer's data matrix. Nobody else writes them.

    Args:
        num_blocks: Blocks that the layer is cut into; one is kept if they are shared.
        dim: Columns of a block.
        config: How to whiten.

    Attributes:
        running_mean: ``(G, D)``; starts at 0.
        running_cov: ``(G, D, D)``, running covariance; starts at I.
        running_whitening: ``(G, D, D)``, the D used in evaluation; starts at I.
        running_weight: Scalar, weight of all steps averaged so far (1 in the limit): the bias correction.
        config: How to whiten.
        process_group: Ranks whose rows count; None is the default group. May be set.
    """

    running_mean: Tensor
    running_cov: Tensor
    running_whitening: Tensor
    running_weight: Tensor

    def __init__(self, num_blocks: int, dim: int, config: WhiteningConfig) -> None:
        super().__init__()
        self.config = config
        self.process_group: ProcessGroup | None = None
        self._momentum = config.update_momentum
        self._before_restart: dict[str, Tensor] | None = None
        self._stored = Stored()
        self._started: Tensor | None = None  # the weight that said that there are statistics; another is looked up
        blocks = 1 if config.shared_blocks else num_blocks
        identity = torch.eye(dim).repeat(blocks, 1, 1)
        self.register_buffer("running_mean", torch.zeros(blocks, dim))
        self.register_buffer("running_cov", identity)
        self.register_buffer("running_whitening", identity.clone())
        self.register_buffer("running_weight", torch.zeros(()))

    @property
    def running(self) -> Running:
        """The buffers as they are now."""
        return Running(self.running_mean, self.running_cov, self.running_whitening, self.running_weight)

    def stored(self) -> tuple[Tensor, Tensor]:
        """Mean and D as they are now, in tensors that later steps leave as they are. Not to be written to."""
        return self._stored.of(self.running_mean, self.running_whitening)

    def statistics(self) -> dict[str, Tensor]:
        """The buffers by name; where a layer is in its schedule is no statistic, and not among them."""
        return {f"running_{name}": buffer for name, buffer in self.running._asdict().items()}

    @property
    def momentum(self) -> float | None:
        """Weight of an update, by momentum and schedule; None while an average over all rows is being taken."""
        return self._momentum if self._before_restart is None else None

    def solve(self, cov_GDD: Tensor) -> Tensor:
        """``(Cov + eps I)^{-1/2}`` by the configured solver."""
        return SOLVERS[self.config.solver](ridged(cov_GDD, self.config.eps), self.config.num_iters)

    def started(self) -> bool:
        """Whether there are statistics. Waits for the device, but only at the first steps."""
        return self._started is self.running_weight or self._look_up_start()

    @never_compiled
    def _look_up_start(self) -> bool:
        started = self.running_weight.is_meta or bool(self.running_weight > 0)  # without values, as if it had run
        self._started = self.running_weight if started else None
        return started

    def solve_or_keep(self, cov_GDD: Tensor, stored_GDD: Tensor) -> Tensor:
        """:meth:`solve`; the stored D of a block where that is not finite, as of a covariance that rounding spoilt."""
        solved = self.solve(cov_GDD)
        return torch.where(is_finite_by_block(solved), solved, stored_GDD)

    def reset_running_stats(self) -> None:
        """Statistics are again those of a new layer."""
        with torch.no_grad():
            self.running_mean.zero_()
            self.running_weight.zero_()
            for matrix in (self.running_cov, self.running_whitening):
                matrix.zero_().diagonal(dim1=1, dim2=2).fill_(1)
        self._started = self._before_restart = None

    def reset_parameters(self) -> None:
        """:meth:`reset_running_stats`, by the name by which FSDP asks for it where a model had no memory before."""
        self.reset_running_stats()

    def ranks(self) -> int:
        """Number of processes whose rows count."""
        return world_size(self.process_group) if self.config.sync else 1

    def values_are_at_hand(self) -> bool:
        """Whether the program may look at statistics without waiting for a device: on the CPU, running eagerly."""
        return self.running_cov.device.type == "cpu" and runs_eagerly(self.running_cov)

    @torch.no_grad()
    def absorb(self, moments: Moments, target: Running | None = None) -> None:
        """Moves the statistics by a step, and solves D from them, where values are at hand.

        Nothing happens if the moments are not usable. A few blocks are taken at a time, as many as the cache holds:
        averages are read and written once, and D is solved while they are near.

        Args:
            moments: Of a step over all ranks, about the running mean.
            target: What to move; the buffers if None.
        """
        count = float(moments.count)
        if count < MIN_ROWS or not squared_magnitude(moments).isfinite():
            return
        own = target or self.running
        rate, weight = share_of_step(float(own.weight), count, own.mean.shape[1], self.momentum)
        own.weight.fill_(weight)
        tensors = (moments.total, moments.outer, own.mean, own.cov, own.whitening)
        parts = (tensor.split(at_once(own.cov)) for tensor in tensors)
        for total, outer, mean, cov, whitening in zip(*parts, strict=True):
            move_averages(mean, cov, Moments(moments.count, total, outer), rate, count)
            whitening.copy_(self.solve_or_keep(cov, whitening))
        if target is None:
            self._started = own.weight

    @torch.no_grad()
    def advance(self, moments: Moments, usable: Tensor) -> tuple[Tensor, Tensor]:
        """Moves the statistics by a step, and solves D from them, without a look at values; few rows move them little.

        Args:
            moments: Of a step over all ranks, about the running mean.
            usable: Whether they count.

        Returns:
            What is stored now, as :meth:`stored`.
        """
        own = self.running
        averages, _ = moved_averages(own.averages, moments, usable, self.momentum)
        solved = self.solve(averages.cov)
        whitening = torch.where(is_finite_by_block(solved) & usable, solved, own.whitening)
        _copy(own, Running(averages.mean, averages.cov, whitening, averages.weight))
        self._stored.keep((own.mean, own.whitening), (averages.mean, whitening))
        return averages.mean, whitening

    @torch.no_grad()
    def follow(self, moments: Moments, usable: Tensor, whitening: Tensor) -> None:
        """Moves the statistics towards a step's, D among them, as far as its rows carry.

        Args:
            moments: Of the step, about the running mean.
            usable: Whether they count.
            whitening: D of the step, finite.
        """
        own = self.running
        averages, share = moved_averages(own.averages, moments, usable, self.momentum, corrected=False)
        moved = own.whitening if self.momentum is None else torch.lerp(own.whitening, whitening.detach(), share)
        _copy(own, Running(averages.mean, averages.cov, moved, averages.weight))

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Writes statistics.

        Args:
            values: By name of the buffer; those that are not named stay as they are.
        """
        for name, value in values.items():
            self.get_buffer(name).copy_(value)
        self._started = None

    @torch.no_grad()
    def restart_average(self) -> None:
        """From here on mean and covariance are averages over all rows of all steps; see :meth:`finish_average`."""
        self._before_restart = {name: buffer.clone() for name, buffer in self.named_buffers()}
        self.running_weight.zero_()
        self._started = None

    @torch.no_grad()
    def finish_average(self) -> None:
        """Solves D from the average over all rows, and goes on with moving averages from there.

        Where no usable row came by, statistics are again what they were.
        """
        before, self._before_restart, self._started = self._before_restart, None, None
        if before is None:
            return
        if self.running_weight == 0:
            for name, buffer in self.named_buffers():
                buffer.copy_(before[name])
            return
        with full_precision(self.running_cov.device):
            self.running_whitening.copy_(self.solve_or_keep(self.running_cov, self.running_whitening))
        self.running_weight.fill_(1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RunningStatistics:
        """Keeps the statistics in float32 when a model is cast to half precision.

        Memory that was given to a module without any (``to_empty`` after ``meta``) holds those of a new layer then.
        """
        had_memory = not self.running_mean.is_meta

        def keep_precision(t: Tensor) -> Tensor:
            moved = fn(t)
            return t.to(moved.device) if moved.dtype in (torch.float16, torch.bfloat16) else moved

        super()._apply(keep_precision, recurse)
        if not (had_memory or self.running_mean.is_meta):
            self.reset_running_stats()
        return self


def write_all(
    statistics: Sequence[RunningStatistics], targets: Sequence[Running], averages: Averages, whitening: Tensor
) -> None:
    """Stores the statistics of many layers in few kernels.

    Args:
        statistics: Of the layers.
        targets: What to write to, which need not be their own buffers.
        averages: One layer behind the other.
        whitening: D, likewise.
    """
    blocks = [len(target.mean) for target in targets]
    means, matrices = averages.mean.split(blocks), whitening.split(blocks)
    _copy([target.mean for target in targets], means)
    _copy([target.cov for target in targets], averages.cov.split(blocks))
    _copy([target.whitening for target in targets], matrices)
    _copy([target.weight for target in targets], averages.weight.unbind())
    for own, target, *copies in zip(statistics, targets, means, matrices, strict=True):
        own._stored.keep((target.mean, target.whitening), (copies[0], copies[1]))


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    torch._foreach_copy_(list(targets), list(sources))  # pyright: ignore[reportPrivateImportUsage]
