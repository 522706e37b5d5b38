"""The state that every ND++ layer shares: running moments of its data matrix and the matrix D that whitens it.

Shape suffixes: see ``ndpp_dense.ops.moments``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from ndpp_dense.layers.config import WhiteningConfig
from ndpp_dense.layers.statistics.averaging import are_usable, update, update_in_place, values_are_at_hand
from ndpp_dense.layers.statistics.exchange import Flight, send
from ndpp_dense.layers.statistics.schedule import Turns
from ndpp_dense.ops.collectives import world_size
from ndpp_dense.ops.eager import never_compiled
from ndpp_dense.ops.inverse_sqrt import SOLVERS
from ndpp_dense.ops.moments import Moments, data_moments, mean_and_covariance, sum_moments_over_ranks
from ndpp_dense.ops.precision import full_precision
from ndpp_dense.ops.recomputation import in_backward, in_backward_when_run

MIN_ROWS_PER_COLUMN = 4  # with fewer rows than this per column behind D, the sample is made denser


class Whitening(nn.Module):
    """Mean and D of a layer's data matrix, from the current rows or from what was stored.

    Attributes:
        running_mean: ``(G, D)``; starts at 0.
        running_cov: ``(G, D, D)``, running covariance; starts at I.
        running_whitening: ``(G, D, D)``, the D used in evaluation; starts at I.
        running_weight: Scalar, weight of all steps averaged so far (1 in the limit): the bias correction.
        momentum: Weight of an update, by momentum and schedule; None makes an average over all rows of all steps (used
            by re-estimation).
        turns: Says at which steps to update; None if at each.
        frozen: Statistics are used as stored, in training too.
        held: Running statistics are not updated for the time being (micro-batches of one step).
        process_group: Ranks whose rows count; None is the default group.
        sampling_stride: Every how manieth position is a row.
        collecting: Under ``"stale"``: the model is running a step at whose end this layer's moments leave.
        collected: The moments of that step so far.
        portions: Forwards that make up the step that is under way, see ``steps.portion_of_step``; 1 outside of such.
        portions_left: How many of them are still to come.
        flight: The moments of the last step, until they have arrived.
    """

    running_mean: Tensor
    running_cov: Tensor
    running_whitening: Tensor
    running_weight: Tensor

    def __init__(self, num_blocks: int, dim: int, config: WhiteningConfig, sampled: bool = True) -> None:
        """Makes the state of ``num_blocks`` blocks (one if they are shared) of ``dim`` columns.

        Args:
            num_blocks: Blocks that the layer is cut into.
            dim: Columns of a block.
            config: How to whiten.
            sampled: Whether the data matrix has positions to sample; a linear layer's has not.
        """
        super().__init__()
        self.config = config
        self.sampling_stride = config.sampling_stride if sampled else 1
        self.momentum: float | None = config.update_momentum
        self.turns = Turns(config.period) if config.period > 1 else None
        self.frozen = False
        self.held = False
        self.process_group: ProcessGroup | None = None
        self.collecting = False
        self.collected: Moments | None = None
        self.portions = 1
        self.portions_left = 0
        self.flight: Flight | None = None
        self._started: bool | None = None  # whether there are statistics; None if that is to be looked up
        blocks = 1 if config.shared_blocks else num_blocks
        identity = torch.eye(dim).repeat(blocks, 1, 1)
        self.register_buffer("running_mean", torch.zeros(blocks, dim))
        self.register_buffer("running_cov", identity)
        self.register_buffer("running_whitening", identity.clone())
        self.register_buffer("running_weight", torch.zeros(()))

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
        if self.collecting or self.collects():
            self._collect(data_matrix)
            return self.running_mean.clone(), self.running_whitening.clone()
        with full_precision(self.running_mean.device), torch.set_grad_enabled(self._differentiable()):
            moments = self._gather(data_matrix)
            if self.config.statistics == "ema" and values_are_at_hand(self):
                update_in_place(self, moments)
                self.forget_start()
                return self.running_mean.clone(), self.running_whitening.clone()
            usable = are_usable(moments)
            counts = usable if first is True else usable & first
            mean, cov = mean_and_covariance(moments, self.running_mean)
            mean = torch.where(usable, mean, self.running_mean)
            cov = torch.where(usable, cov, self.running_cov)
            if self.config.statistics == "ema":
                update(self, moments.count, counts, mean, cov)
                self.running_whitening.copy_(torch.where(counts, self.solve(self.running_cov), self.running_whitening))
                self.forget_start()
                return self.running_mean.clone(), self.running_whitening.clone()
            whitening = torch.where(usable, self.solve(cov), self.running_whitening)
            if not self.held:
                update(self, moments.count, counts, mean.detach(), cov.detach(), whitening.detach())
            return mean, whitening

    def set_momentum(self, momentum: float) -> None:
        """Lets later updates weigh so much, in place of what the configuration said, which is replaced."""
        self.config = replace(self.config, momentum=momentum)
        self.momentum = self.config.update_momentum

    def solve(self, cov_GDD: Tensor) -> Tensor:
        """``(Cov + eps I)^{-1/2}`` by the configured solver."""
        ridged = cov_GDD.clone()
        ridged.diagonal(dim1=1, dim2=2).add_(self.config.eps)
        return SOLVERS[self.config.solver](ridged, self.config.num_iters)

    def collects(self) -> bool:
        """Whether a forward now only takes moments, for later steps: under ``"stale"``, once there are statistics."""
        if self.config.schedule != "stale" or self.frozen or self.held or not self.training or self.momentum is None:
            return False
        return self.started()

    def started(self) -> bool:
        """Whether there are statistics."""
        if self._started is None:
            self._started = bool(self.running_weight > 0)  # waits for the device, but only at the first steps
        return self._started

    def settle(self) -> None:
        """Lets the moments of the last step arrive, if they have not."""
        if self.flight is not None:
            self.flight.land()

    def forget_start(self) -> None:
        """Must be called where ``running_weight`` was written from outside: it may say now that nothing is stored."""
        self._started = None

    def ranks(self) -> int:
        """Number of processes whose rows count."""
        return world_size(self.process_group) if self.config.sync else 1

    @torch.no_grad()
    def _collect(self, data_matrix: Callable[[int], Tensor]) -> None:
        """Takes the moments of this forward; those of a layer that runs by itself leave at once."""
        self._settle_first()
        with full_precision(self.running_mean.device):
            moments = self._own_moments(data_matrix, self.ranks() * self.portions)
        self._hand_over(moments)

    @never_compiled
    def _settle_first(self) -> None:
        self.settle()

    @never_compiled
    def _hand_over(self, moments: Moments) -> None:
        before = self.collected
        self.collected = moments if before is None else Moments(*(a + b for a, b in zip(before, moments, strict=True)))
        if not self.collecting:
            send([self])

    def _is_first_run(self) -> bool | Tensor:
        """Whether this is not a forward that runs again; a scalar that says it later in compiled code.

        A schedule needs the answer at once, and splits the graph for it.
        """
        if torch.compiler.is_compiling() and self.config.schedule == "fresh":
            return ~in_backward_when_run(self.running_weight)
        return not in_backward()

    def _due(self) -> bool:
        """Whether this step updates the statistics. Call it once a step: it moves the schedule on."""
        return self.turns is None or self.momentum is None or self.turns.take()

    def _differentiable(self) -> bool:
        return self.config.grad == "full" and torch.is_grad_enabled()

    def _gather(self, data_matrix: Callable[[int], Tensor]) -> Moments:
        """Moments over all ranks; of a denser sample where the configured one has too few rows.

        Whether they are too few is a fact about all ranks, and all must agree on it. A rank that has enough rows knows
        it at once; only one that has not must look at the sum (and wait for the device).
        """
        if self.ranks() == 1:
            return self._own_moments(data_matrix, 1)
        stride, data = self.sampling_stride, data_matrix(self.sampling_stride)
        moments = self._summed(data)
        if stride == 1 or self._rows(data) >= self._enough():
            return moments
        total = float(moments.count.detach())
        if not 0 < total < self._enough():
            return moments
        return self._summed(data_matrix(_denser(stride, total / self._enough())))

    def _own_moments(self, data_matrix: Callable[[int], Tensor], shares: int) -> Moments:
        """Moments of one of so many shares of a step, by ranks and portions.

        Of a denser sample if all together have too few rows, should they have as many as this one.
        """
        stride, data = self.sampling_stride, data_matrix(self.sampling_stride)
        rows = self._rows(data) * shares
        if stride > 1 and 0 < rows < self._enough():
            data = data_matrix(_denser(stride, rows / self._enough()))
        return data_moments(data, self.running_mean)

    def _summed(self, data: Tensor) -> Moments:
        return sum_moments_over_ranks(data_moments(data, self.running_mean), self.process_group)

    def _rows(self, data: Tensor) -> int:
        return data.numel() // self.running_mean.numel()

    def _enough(self) -> float:
        """Rows of a step: an average shares them among the steps it reaches back, but each counts fully from D on."""
        share = 1.0 if self.config.statistics == "batch" else self.momentum or 1.0
        return max(1.0, MIN_ROWS_PER_COLUMN * share) * self.running_mean.shape[1]

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
        """Loads checkpoints of every schedule: where there are no turns, those that were saved are passed over."""
        self.settle()
        self.forget_start()
        if self.turns is None:
            state_dict.pop(f"{prefix}turns.phase", None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Whitening:
        """Keeps the statistics in float32 when a model is cast to half precision."""
        self.settle()

        def keep_precision(t: Tensor) -> Tensor:
            moved = fn(t)
            return t.to(moved.device) if moved.dtype in (torch.float16, torch.bfloat16) else moved

        return super()._apply(keep_precision, recurse)


def _denser(stride: int, share: float) -> int:
    """The sampling stride at which ``1 / share`` times as many rows are sampled."""
    return max(1, int(stride * math.sqrt(share)))
