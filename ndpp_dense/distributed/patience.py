"""How long a run waits for its own loader processes, and what it says when they do not answer."""

from __future__ import annotations

import multiprocessing
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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
    watch = _Watch(60.0 * minutes)
    watch.start()
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        died = None if watch.ended else _DIED.search(str(error))
        if _TIMED_OUT not in str(error) and not died and not watch.ended:
            raise
        pids = ", ".join(map(str, watch.ended or [child.pid for child in multiprocessing.active_children()]))
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
        watch.over.set()
        _minutes.pop()


class _Watch(threading.Thread):
    """Ends loader processes that were stopped for too long.

    A loader's own timeout is not enough: a batch that lies in the queue is fetched from the process that made it, and
    torch waits for that without end.

    Attributes:
        over: To be set when there is nothing to watch any more.
        ended: Process ids.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.ended: list[int] = []
        self._seconds = seconds

    def run(self) -> None:
        since: dict[int, float] = {}
        # Seldom, for listing children takes note of those that are gone, which torch would rather see itself.
        while not self.over.wait(self._seconds / 4):
            now = time.monotonic()
            stopped = [child for child in multiprocessing.active_children() if _is_stopped(child.pid)]
            since = {child.pid or 0: since.get(child.pid or 0, now) for child in stopped}
            for child in stopped:
                if now - since[child.pid or 0] >= self._seconds:
                    self.ended.append(child.pid or 0)
                    child.kill()


def _is_stopped(pid: int | None) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):  # it is gone, or this is no Linux
        return False
    return state in ("T", "t")


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
