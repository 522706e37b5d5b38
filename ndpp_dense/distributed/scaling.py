"""A config meant for one number of processes, fitted to another."""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["Scaling", "loader_processes"]


@dataclass(frozen=True)
class Scaling:
    """The linear rule: learning rate and images of a step grow with the number of processes.

    Args:
        meant_for: Processes that the config is written for, >= 1.
        world_size: Processes that there are, >= 1.
    """

    meant_for: int
    world_size: int

    @property
    def factor(self) -> float:
        """By how much batch and learning rate grow."""
        return self.world_size / self.meant_for

    def batch(self, images: int) -> int:
        """Images of a step over all processes, from the config's.

        Raises:
            ValueError: The config's do not split evenly over the processes that it is meant for.
        """
        if images % self.meant_for:
            raise ValueError(
                f"--auto-scale {self.meant_for}: a batch of {images} does not split evenly over {self.meant_for} "
                "process(es). Name the number that the config is written for."
            )
        return images // self.meant_for * self.world_size

    def steps(self, count: int) -> int:
        """Optimizer steps that see as many images as ``count`` of the config's, at least 1 unless it is 0."""
        return max(1, round(count / self.factor)) if count else 0

    def __str__(self) -> str:
        return f"scaled from {self.meant_for} to {self.world_size} process(es)"


def loader_processes(wanted: int, ranks_here: int) -> int:
    """Loader processes of a rank, so that those of all ranks on this machine have a core each.

    Args:
        wanted: By the config.
        ranks_here: Ranks on this machine.

    Returns:
        At most ``wanted``, at least 1 where any are wanted.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(wanted, max(1, cores // max(1, ranks_here)))
