"""Which positions of a map are rows of the data matrix: neither more than statistics need nor fewer."""

from __future__ import annotations

import math

MIN_ROWS_PER_COLUMN = 4  # with fewer rows than this per column behind D, the sample is made denser


def sparser_stride(stride: int, positions: int, limit: int) -> int:
    """The sampling stride that leaves about ``limit`` positions of a map, if ``stride`` would leave more.

    It depends on the size of the map alone, not on how many there are: so it is the same whatever the batch, and
    however that is cut among ranks.

    Args:
        stride: Of the configuration, >= 1.
        positions: Of the map at stride 1.
        limit: How many to take; 0 for no limit.
    """
    return max(stride, math.ceil(math.sqrt(positions / limit))) if limit and positions > limit else stride


def denser_stride(stride: int, share: float) -> int:
    """The sampling stride at which ``1 / share`` times as many rows are sampled."""
    return max(1, int(stride * math.sqrt(share)))


def enough_rows(columns: int, share: float) -> float:
    """Rows that a step must give for ``columns`` columns.

    Args:
        columns: Of a block.
        share: What the step weighs in the statistics that D is solved from: 1 if they are its own. An average shares
            the rows that D needs among the steps it reaches back, but each counts fully from ``columns`` rows on.
    """
    return max(1.0, MIN_ROWS_PER_COLUMN * share) * columns
