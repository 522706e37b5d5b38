"""The state that every ND++ layer shares: which statistics a step uses, and which it takes.

Shape suffixes: see ``ndpp_dense.ops.moments``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ndpp_dense.layers.config import WhiteningConfig
from ndpp_dense.layers.statistics.exchange import Contribution, Exchange, launch
from ndpp_dense.layers.statistics.running import RunningStatistics
from ndpp_dense.layers.statistics.sampling import MIN_ROWS_PER_COLUMN, Sampling
from ndpp_dense.layers.statistics.schedule import Schedule, UpdateInterval
from ndpp_dense.ops.averaging import are_usable
from ndpp_dense.ops.eager import never_compiled
from ndpp_dense.ops.moments import Moments, mean_and_covariance
from ndpp_dense.ops.precision import full_precision
from ndpp_dense.ops.recomputation import in_backward, in_backward_when_run

__all__ = ["Whitening"]


class Whitening(RunningStatistics):
    """Mean and D of a layer's data matrix, from the current rows or from what was stored.

    It owns its state: others call its methods, and write neither its buffers nor its attributes, but
    ``process_group``.

    Args:
        num_blocks: Blocks that the layer is cut into.
        dim: Columns of a block.
        config: How to whiten.
        sampled: Whether the data matrix has positions to sample; a linear layer's has not.

    Attributes:
        schedule: The configured schedule, parsed.
        turns: Says at which steps to update; None if at each. (The name is that of its key in checkpoints.)
        sampling_stride: Every ``sampling_stride``-th position is a row.
    """

    def __init__(self, num_blocks: int, dim: int, config: WhiteningConfig, sampled: bool = True) -> None:
        super().__init__(num_blocks, dim, config)
        self.schedule = Schedule.parse(config.schedule)
        self.sampling_stride = config.sampling_stride if sampled else 1
        self.turns = UpdateInterval(self.schedule.period) if self.schedule.period > 1 else None
        self._frozen = False
        self._holds = 0  # blocks that are open in which statistics are held
        self._collecting = False  # the model is running a step at whose end this layer's moments are exchanged
        self._collected: Moments | None = None
        self._micro_batches = 1
        self._micro_batches_left = 0
        self._exchange: Exchange | None = None

    @property
    def frozen(self) -> bool:
        """Whether statistics are used as stored, in training too."""
        return self._frozen

    @property
    def held(self) -> bool:
        """Whether running statistics are not updated for the time being (micro-batches of one step)."""
        return self._holds > 0

    @property
    def under_way(self) -> bool:
        """Whether moments of the last step are being exchanged, and buffers do not hold them yet."""
        return self._exchange is not None

    @property
    def micro_batches(self) -> int:
        """Forward passes that make up the step that is under way; 1 outside of ``steps.micro_batch_of_step``."""
        return self._micro_batches

    def freeze(self, frozen: bool = True) -> None:
        """From here on uses statistics as they are stored, in training too; or no longer."""
        self.settle()
        self._frozen = frozen

    def hold(self) -> None:
        """Does not update running statistics until :meth:`release`, which must be called as often."""
        self._holds += 1

    def release(self) -> None:
        """Takes back one :meth:`hold`."""
        self._holds -= 1

    def forward(self, data_matrix: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
        """Chooses the statistics of this step and, in training, updates the stored ones.

        Args:
            data_matrix: Maps a sampling stride to the data matrix of the current input, see ``data_moments``.

        Returns:
            Mean ``(G, D)`` and whitening matrix ``(G, D, D)``, in the buffers' data type.
        """
        if self.frozen or not self.training:
            return self.running_mean, self.running_whitening
        first = self._is_first_run()  # activation checkpointing runs the forward a second time: no second update
        if self.config.statistics == "ema" and (self.held or first is False or not self._due()):
            return self.running_mean.clone(), self.running_whitening.clone()
        if self._collecting or self._collects():
            self._collect(data_matrix)
            return self.running_mean.clone(), self.running_whitening.clone()
        with full_precision(self.running_mean.device), torch.set_grad_enabled(self._differentiable()):
            moments = self._gather(data_matrix)
            if self.config.statistics == "ema" and self.values_are_at_hand():
                self.absorb(moments)
                return self.running_mean.clone(), self.running_whitening.clone()
            usable = are_usable(moments)
            counts = usable if first is True else usable & first
            mean, cov = mean_and_covariance(moments, self.running_mean)
            mean = torch.where(usable, mean, self.running_mean)
            cov = torch.where(usable, cov, self.running_cov)
            if self.config.statistics == "ema":
                self.blend(moments.count, counts, mean, cov)
                return self.running_mean.clone(), self.running_whitening.clone()
            whitening = torch.where(usable, self.solve(cov), self.running_whitening)
            if not self.held:
                self.blend(moments.count, counts, mean.detach(), cov.detach(), whitening.detach())
            return mean, whitening

    def settle(self) -> None:
        """Waits for the exchange of the last step's moments, if it is not over."""
        if self._exchange is not None:
            self._exchange.wait()
            self._exchange = None

    def set_momentum(self, momentum: float) -> None:
        """Lets later updates weigh so much, in place of what the configuration said, which is replaced."""
        self.config = replace(self.config, momentum=momentum)
        self._momentum = self.config.update_momentum

    def load(self, values: Mapping[str, Tensor]) -> None:
        """As for any running statistics; what was under way has arrived before, and is overwritten."""
        self.settle()
        super().load(values)

    def restart_average(self) -> None:
        """As for any running statistics; what was under way has arrived before."""
        self.settle()
        super().restart_average()

    def begin_step(self) -> None:
        """The model begins a step: what is collected from here on is exchanged at its end."""
        if self._collecting and self._micro_batches > 1:  # those of one step go on with what they have
            return
        collecting = self._collects()
        if collecting:  # what runs between two micro-batches, to evaluate say, leaves what they have collected
            self.abandon_step()
        self._collecting = collecting

    def end_step(self) -> bool:
        """The model ends a step; returns whether what was collected is complete, and to be exchanged."""
        complete = self._collecting and self._micro_batches_left == 0
        if complete:
            self._collecting = False
        return complete

    def enter_micro_batch(self, index: int, count: int) -> bool:
        """A micro-batch begins, the first of a step if ``index`` is 0.

        Returns:
            Whether its rows count; if not, statistics are to be held.
        """
        if index > 0:
            self._collecting = self._micro_batches == count
        elif self.schedule.stale:
            self.abandon_step()
            self._collecting = self._collects()
            self._micro_batches = count if self._collecting else 1
        self._micro_batches_left = count - 1 - index
        return index == 0 or self._collecting

    def leave_micro_batch(self) -> bool:
        """A micro-batch ends; returns whether it was the last, and what was collected is still to be exchanged."""
        unsent, last = self._collecting, self._micro_batches_left == 0
        self._collecting = False
        if last:
            self._micro_batches = 1
        return unsent and last

    def abandon_step(self) -> None:
        """Forgets what was collected in a step that failed."""
        self._collecting, self._collected, self._micro_batches, self._micro_batches_left = False, None, 1, 0

    @staticmethod
    def exchange(states: Iterable[Whitening]) -> None:
        """Launches the exchange of what layers have collected in a step, see ``exchange.launch``."""
        ready = []
        for state in states:
            state.settle()  # a layer that did not run in this step has not waited for the one before
            ready.append((state, Contribution(state, state._collected)))
        for (state, _), exchange in zip(ready, launch([own for _, own in ready]), strict=True):
            state._exchange, state._collected = exchange, None

    def _collects(self) -> bool:
        """Whether a forward now only takes moments, for later steps: under ``"stale"``, once there are statistics."""
        if not self.schedule.stale or self.frozen or self.held or not self.training or self.momentum is None:
            return False
        return self.started()

    @torch.no_grad()
    def _collect(self, data_matrix: Callable[[int], Tensor]) -> None:
        """Takes the moments of this forward; those of a layer that runs by itself are exchanged at once."""
        self._settle_first()
        with full_precision(self.running_mean.device):
            moments = self._sampling().own(data_matrix, self.ranks() * self._micro_batches)
        self._add(moments)

    @never_compiled
    def _settle_first(self) -> None:
        self.settle()

    @never_compiled
    def _add(self, moments: Moments) -> None:
        before = self._collected
        self._collected = moments if before is None else Moments(*(a + b for a, b in zip(before, moments, strict=True)))
        if not self._collecting:
            self.exchange([self])

    def _is_first_run(self) -> bool | Tensor:
        """Whether this is not a forward that runs again; a scalar that says it later in compiled code.

        A schedule needs the answer at once, and splits the graph for it.
        """
        if torch.compiler.is_compiling() and self.schedule.fresh:
            return ~in_backward_when_run(self.running_weight)
        return not in_backward()

    def _due(self) -> bool:
        """Whether this step updates the statistics. Call it once a step: it moves the schedule on."""
        return self.turns is None or self.momentum is None or self.turns.take()

    def _differentiable(self) -> bool:
        return self.config.grad == "full" and torch.is_grad_enabled()

    def _gather(self, data_matrix: Callable[[int], Tensor]) -> Moments:
        """Moments over all ranks."""
        if self.ranks() == 1:
            return self._sampling().own(data_matrix, 1)
        return self._sampling().over_ranks(data_matrix, self.process_group)

    def _sampling(self) -> Sampling:
        """An average shares the rows that D needs among the steps it reaches back, but each counts fully from D on."""
        share = 1.0 if self.config.statistics == "batch" else self.momentum or 1.0
        enough = max(1.0, MIN_ROWS_PER_COLUMN * share) * self.running_mean.shape[1]
        return Sampling(self.sampling_stride, enough, self.running_mean)

    def __deepcopy__(self, memo: dict[int, Any]) -> Whitening:
        """Copies all but the process group, a handle that cannot be copied and need not be."""
        self.settle()
        copy = type(self).__new__(type(self))
        memo[id(self)] = copy
        memo[id(self.process_group)] = self.process_group
        copy.__dict__ = deepcopy(self.__dict__, memo)
        return copy

    def __getstate__(self) -> dict[str, Any]:
        """For pickles, which cannot hold what is under way."""
        self.settle()
        return self.__dict__.copy()

    def train(self, mode: bool = True) -> Whitening:
        """As for any module; evaluation sees all steps."""
        if not mode:
            self.settle()
        return super().train(mode)

    def _save_to_state_dict(self, *args: Any) -> None:
        self.settle()
        super()._save_to_state_dict(*args)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Loads checkpoints of every schedule: where no steps are counted, a count that was saved is passed over."""
        self.settle()
        self._started = None
        if self.turns is None:
            state_dict.pop(f"{prefix}turns.phase", None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Whitening:
        self.settle()
        return super()._apply(fn, recurse)  # type: ignore[return-value]
