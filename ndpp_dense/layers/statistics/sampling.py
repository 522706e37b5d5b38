"""Moments of a sample of a layer's rows; of a denser one where the configured sample has too few."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.distributed import ProcessGroup

from ndpp_dense.ops.moments import Moments, data_moments, sum_moments_over_ranks

__all__ = ["MIN_ROWS_PER_COLUMN", "Sampling"]

MIN_ROWS_PER_COLUMN = 4  # with fewer rows than this per column behind D, the sample is made denser


class Sampling(NamedTuple):
    """Which rows of a data matrix make the moments of a step.

    Attributes:
        stride: Every ``stride``-th position is a row, on both axes.
        enough: Rows of a step below which the sample is made denser.
        shift: ``(G, D)``, about which moments are taken.
    """

    stride: int
    enough: float
    shift: Tensor

    def own(self, data_matrix: Callable[[int], Tensor], shares: int) -> Moments:
        """Moments of one of so many shares of a step, by ranks and micro-batches.

        Of a denser sample if all together have too few rows, should they have as many as this one.

        Args:
            data_matrix: Maps a stride to the data matrix of the current input, see ``data_moments``.
            shares: How many there are, >= 1.
        """
        data = data_matrix(self.stride)
        rows = self._rows(data) * shares
        if self.stride > 1 and 0 < rows < self.enough:
            data = data_matrix(self._denser(rows))
        return data_moments(data, self.shift)

    def over_ranks(self, data_matrix: Callable[[int], Tensor], group: ProcessGroup | None) -> Moments:
        """Moments over all ranks.

        Whether rows are too few is a fact about all ranks, and all must agree on it. A rank that has enough knows it at
        once; only one that has not must look at the sum (and wait for the device).

        Args:
            data_matrix: As for :meth:`own`.
            group: Process group; None is the default group.
        """
        data = data_matrix(self.stride)
        moments = self._summed(data, group)
        if self.stride == 1 or self._rows(data) >= self.enough:
            return moments
        total = float(moments.count.detach() if isinstance(moments.count, Tensor) else moments.count)
        if not 0 < total < self.enough:
            return moments
        return self._summed(data_matrix(self._denser(total)), group)

    def _summed(self, data: Tensor, group: ProcessGroup | None) -> Moments:
        return sum_moments_over_ranks(data_moments(data, self.shift), group)

    def _rows(self, data: Tensor) -> int:
        return data.numel() // self.shift.numel()

    def _denser(self, rows: float) -> int:
        """The stride at which there are enough rows, if the configured one gives so many."""
        return max(1, int(self.stride * math.sqrt(rows / self.enough)))
