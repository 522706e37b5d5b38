"""The state that every ND++ layer shares: which statistics a step uses, and which it takes.

Shape suffixes: see ``ndpp_dense.ops.moments``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ndpp_dense.layers.config import WhiteningConfig
from ndpp_dense.layers.statistics.collection import Collection
from ndpp_dense.layers.statistics.exchange import Contribution, Exchange, launch
from ndpp_dense.layers.statistics.running import RunningStatistics
from ndpp_dense.layers.statistics.sampling import MIN_ROWS_PER_COLUMN, Sampling
from ndpp_dense.layers.statistics.schedule import Schedule, UpdateInterval
from ndpp_dense.ops.averaging import MIN_ROWS, are_usable
from ndpp_dense.ops.eager import differentiates_by_hand, never_compiled
from ndpp_dense.ops.inverse_sqrt import SOLVERS, is_finite_by_block, newton
from ndpp_dense.ops.moments import Moments, mean_and_covariance
from ndpp_dense.ops.precision import full_precision
from ndpp_dense.ops.recomputation import in_backward, in_backward_when_run
from ndpp_dense.ops.step_whitening import Fallback, step_whitening

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
        self._collection = Collection()
        self._step_of: int | None = None  # the model that counts steps for this layer, while it runs
        self._due_in_step = False
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
        return self._collection.micro_batches

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
            return self.stored()
        if self._collection.open or self._collects():
            self._collect(data_matrix)
            return self.stored()
        with full_precision(self.running_mean.device), torch.set_grad_enabled(self._differentiable()):
            moments = self._gather(data_matrix)
            if not isinstance(moments.count, Tensor) and moments.count < MIN_ROWS:
                return self.stored()
            if self.config.statistics == "ema" and self.values_are_at_hand():
                self.absorb(moments)
                return self.stored()
            usable = are_usable(moments)
            counts = usable if first is True else usable & first
            if self.config.statistics == "ema":
                return self.advance(moments, counts)
            mean, whitening = self._of_step(moments, usable)
            if not self.held:
                self.follow(moments, counts, whitening)
            return mean, whitening

    def _of_step(self, moments: Moments, usable: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and D of the step, or what is stored where its moments are not usable."""
        by_hand = SOLVERS[self.config.solver] is newton and differentiates_by_hand(moments.outer)
        if by_hand and self._differentiable():
            stored = Fallback(self.running_mean, self.running_cov, self.running_whitening)
            return step_whitening(moments, usable, stored, self.config.eps, self.config.num_iters)
        mean, cov = mean_and_covariance(moments, self.running_mean)
        mean = torch.where(usable, mean, self.running_mean)
        cov = torch.where(usable, cov, self.running_cov)
        solved = self.solve(cov)
        return mean, torch.where(is_finite_by_block(solved) & usable, solved, self.running_whitening)

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

    def reset_running_stats(self) -> None:
        """Statistics are again those of a new layer, and the next step takes new ones."""
        self._exchange = None
        self._collection.abandon()
        super().reset_running_stats()
        if self.turns is not None:
            self.turns.reset_parameters()

    @staticmethod
    def begin_steps(states: Iterable[Whitening], model: nn.Module) -> None:
        """A model begins a step: its layers update or do not, all alike, and collect what is exchanged at its end.

        Layers that do not agree on when to update next (they were run past the model, or frozen for a while) do so from
        here on: all update with the first of them.
        """
        counting: dict[int, list[tuple[Whitening, UpdateInterval]]] = {}
        for state in states:
            state._collection.begin(state._collects())
            if state._step_of in (None, id(model)):  # not in the step of a model around this one
                state._step_of = None
                if state.turns is not None and state._takes():
                    counting.setdefault(state.turns.period, []).append((state, state.turns))
        for group in counting.values():
            left = min(interval.left() for _, interval in group)
            due = UpdateInterval.take_together([interval for _, interval in group], left)
            for state, _ in group:
                state._step_of, state._due_in_step = id(model), due

    def end_step(self, model: nn.Module) -> bool:
        """The model ends a step; returns whether what was collected is complete, and to be exchanged."""
        self._leave_step(model)
        return self._collection.end()

    def fail_step(self, model: nn.Module) -> None:
        """The model has left a step by an error, or has ended it before."""
        self._leave_step(model)
        self._collection.fail()

    def _leave_step(self, model: nn.Module) -> None:
        if self._step_of == id(model):
            self._step_of = None

    def enter_micro_batch(self, index: int, count: int) -> bool:
        """A micro-batch begins; returns whether its rows count; if not, statistics are to be held."""
        return self._collection.enter(index, count, self._collects())

    def leave_micro_batch(self) -> bool:
        """A micro-batch ends; returns whether what was collected is still to be exchanged."""
        return self._collection.leave()

    def abandon_step(self) -> None:
        """Forgets what was collected in a step that failed."""
        self._collection.abandon()

    @staticmethod
    def exchange(states: Iterable[Whitening]) -> None:
        """Launches the exchange of what layers have collected in a step, see ``exchange.launch``."""
        ready = list(states)
        for state in ready:
            state.settle()  # a layer that did not run in this step has not waited for the one before
        shares = [Contribution(state, *state._collection.take(state.running)) for state in ready]
        for state, exchange in zip(ready, launch(shares), strict=True):
            state._exchange = exchange

    def _collects(self) -> bool:
        """Whether a forward now only takes moments, for later steps: under ``"stale"``, once there are statistics."""
        return self.schedule.stale and self._takes() and self.started()

    def _takes(self) -> bool:
        """Whether a forward now is one of those that may move the statistics by its momentum."""
        return self.training and not self.frozen and not self.held and self.momentum is not None

    @torch.no_grad()
    def _collect(self, data_matrix: Callable[[int], Tensor]) -> None:
        """Takes the moments of this forward; those of a layer that runs by itself are exchanged at once."""
        self._settle_first()
        with full_precision(self.running_mean.device):
            moments = self._sampling().own(data_matrix, self.ranks() * self._collection.micro_batches)
        self._add(moments)

    @never_compiled
    def _settle_first(self) -> None:
        self.settle()

    @never_compiled
    def _add(self, moments: Moments) -> None:
        self._collection.add(moments, self.running)
        if not self._collection.open:
            self.exchange([self])

    def _is_first_run(self) -> bool | Tensor:
        """Whether this is not a forward that runs again; a scalar that says it later in compiled code.

        A schedule needs the answer at once, and splits the graph for it.
        """
        if torch.compiler.is_compiling() and self.schedule.fresh:
            return ~in_backward_when_run(self.running_weight)
        return not in_backward()

    def _due(self) -> bool:
        """Whether this step updates the statistics; moves the schedule on, if no model does that for its layers."""
        if self.turns is None or self.momentum is None:
            return True
        due = self.turns.take() if self._step_of is None else self._due_in_step
        return due or not self.started()  # a first step may have failed, or had no usable row

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
