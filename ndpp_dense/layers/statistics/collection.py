"""What a layer collects in a step, until its moments are exchanged: ``schedule="stale"``."""

from __future__ import annotations

from ndpp_dense.layers.statistics.running import Running
from ndpp_dense.ops.moments import Moments

__all__ = ["Collection"]


class Collection:
    """The moments of the step that is under way, of all its forward passes.

    Attributes:
        open: Whether a step is under way at whose end the moments are exchanged; a layer that runs without one is a
            step of its own.
        micro_batches: Forward passes of the model that make up the step.
    """

    def __init__(self) -> None:
        self.abandon()

    def begin(self, collects: bool) -> None:
        """A forward pass of the model begins, in which the layer collects or does not."""
        if self.open and self.micro_batches > 1:  # those of one step go on with what they have
            return
        if collects:  # what runs between two micro-batches, to evaluate say, leaves what they have collected
            self.abandon()
        self.open = collects

    def end(self) -> bool:
        """The forward pass ends; returns whether what was collected is complete, and to be exchanged."""
        complete = self.open and self._left == 0
        if complete:
            self.open = False
        return complete

    def fail(self) -> None:
        """The forward pass has raised, or is over."""
        if self.micro_batches == 1:  # of several, the step is given up where all of them are known
            self.abandon()

    def enter(self, index: int, count: int, collects: bool) -> bool:
        """A micro-batch begins, the first of a step if ``index`` is 0.

        Returns:
            Whether its rows count; if not, statistics are to be held.
        """
        if index > 0:
            self.open = self.micro_batches == count
        else:
            self.abandon()
            self.open = collects
            self.micro_batches = count if collects else 1
        self._left = count - 1 - index
        return index == 0 or self.open

    def leave(self) -> bool:
        """A micro-batch ends; returns whether it was the last, and what was collected is still to be exchanged."""
        unsent, last = self.open, self._left == 0
        self.open = False
        if last:
            self.micro_batches = 1
        return unsent and last

    def abandon(self) -> None:
        """Forgets what was collected in a step that failed."""
        self.open = False
        self.micro_batches = 1
        self._left = 0  # micro-batches still to come
        self._moments: Moments | None = None
        self._target: Running | None = None  # the buffers whose mean they are about

    def add(self, moments: Moments, target: Running) -> None:
        """Takes the moments of one forward pass of the layer.

        Args:
            moments: About the mean of ``target``.
            target: The layer's buffers.
        """
        before, self._target = self._moments, target
        if before is not None:
            sums = before.total + moments.total, before.outer + moments.outer
            moments = Moments(before.count + moments.count, *sums)
        self._moments = moments

    def take(self, own: Running) -> tuple[Running, Moments | None]:
        """Hands over what was collected, and the buffers that it is for: ``own`` if the layer did not run."""
        taken = self._target or own, self._moments
        self._target = self._moments = None
        return taken
