"""How long a run waits for its own loader processes, and what it says when they do not answer."""

from __future__ import annotations

import multiprocessing
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

__all__ = ["patience", "patient", "waiting_for_loaders"]

Loader = TypeVar("Loader", bound=Any)

_DEFAULT = 30.0  # minutes
_MOMENT = 5.0  # seconds for a killed process to be gone
_minutes = [_DEFAULT]
_TIMED_OUT = "DataLoader timed out after"
_DIED = re.compile(r"DataLoader worker \(pid.*?\) (?:exited unexpectedly|is killed by signal: [^.]*)")


def patience() -> float:
    """Seconds that this process waits for a batch."""
    return 60.0 * _minutes[-1]


def patient(loader: Loader) -> Loader:
    """A torch ``DataLoader`` that waits no longer than :func:`patience` for its processes, if it has any."""
    if loader.num_workers > 0:
        loader.timeout = patience()
    return loader


@contextmanager
def waiting_for_loaders(minutes: float) -> Iterator[None]:
    """Inside the block loaders are waited for so long; those that do not answer are ended, and named.

    Args:
        minutes: Of ``--timeout``.

    Raises:
        TimeoutError: No batch came in time: a loader process was stopped, or waits for a disk or a network itself.
        ChildProcessError: A loader process was killed.
    """
    _minutes.append(minutes)
    try:
        yield
    except RuntimeError as error:
        died = _DIED.search(str(error))
        if _TIMED_OUT not in str(error) and not died:
            raise
        pids = ", ".join(str(child.pid) for child in multiprocessing.active_children())
        _end_children()
        if died:
            raise ChildProcessError(
                f"a loader process ended: {died[0]}. Was it out of memory, or of shared memory? Fewer loader processes "
                "take less of both; --resume goes on from the last checkpoint."
            ) from error
        raise TimeoutError(
            f"no batch came from the loader processes (pids {pids or 'unknown'}) for {60 * minutes:g} s (--timeout "
            f"{minutes:g} minutes): one of them is stopped, or waits for a disk or a network. They were ended; "
            "--resume goes on from the last checkpoint."
        ) from error
    finally:
        _minutes.pop()


def _end_children() -> None:
    """Kills: a stopped process hears nothing else, and would be waited for at the end."""
    main = threading.current_thread() is threading.main_thread()
    # torch's own handler would raise an error for every process that ends here, in the middle of what is being said.
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if main else None
    try:
        for child in multiprocessing.active_children():
            child.kill()
            child.join(_MOMENT)
    finally:
        if main:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)
