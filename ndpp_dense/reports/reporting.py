"""When the report of a run is written: at its end, however it came."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ndpp_dense.distributed.stopping import StoppedEarly
from ndpp_dense.reports.drawing import drawing

__all__ = ["reported"]


@contextmanager
def reported(write: Callable[[str, str], None]) -> Iterator[None]:
    """Writes a report when the block ends, is stopped by a signal, or diverges; errors of the user leave none.

    What goes wrong while it is written changes nothing of how the run ends.

    Args:
        write: Takes ``finished``, ``stopped`` or ``diverged``, and a sentence.
    """
    try:
        yield
    except (StoppedEarly, FloatingPointError) as end:
        with drawing("report.html"):
            write("stopped" if isinstance(end, StoppedEarly) else "diverged", str(end))
        raise
    with drawing("report.html"):
        write("finished", "")
