"""Ending a run when a scheduler asks for it: at the next step, with a checkpoint, on all ranks together."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["EXIT_CODE", "StoppedEarly", "stop_asked", "stopping_at_once", "watching_for_stop"]

_log = logging.getLogger(__name__)

EXIT_CODE = 75  # "try again later" in sysexits.h: what a batch script requeues on
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # of scancel, preemption and torchrun; of sbatch --signal=USR1@120
_asked = threading.Event()
_at_once: list[str] = []  # what to say where there is nothing to save first


class StoppedEarly(SystemExit):
    """The run was asked to stop and has saved everything; ends the process with :data:`EXIT_CODE`."""

    def __init__(self, message: str) -> None:
        super().__init__(EXIT_CODE)
        self.message = message

    def __str__(self) -> str:
        return self.message


def stop_asked() -> bool:
    """Whether this process got the signal. Ranks must agree before they act on it."""
    return _asked.is_set()


@contextmanager
def watching_for_stop() -> Iterator[None]:
    """Inside the block :data:`SIGNALS` set what :func:`stop_asked` returns instead of ending the process.

    More of them change nothing: a scheduler signals every process, and torchrun passes its own on besides. Only the
    main thread can watch; in others nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _asked.clear()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    own = os.getpid()

    def ask(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:  # a loader process: it ends when this one does
            return
        _asked.set()
        if _at_once:
            raise StoppedEarly(_at_once[-1])

    for number in SIGNALS:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _asked.clear()


@contextmanager
def stopping_at_once(what: str) -> Iterator[None]:
    """Inside the block a signal ends the process where it is: for work that leaves nothing to go on from.

    Args:
        what: Is broken off; for the message.

    Raises:
        StoppedEarly: A signal came, now or before.
    """
    message = f"{what} was stopped by a signal before it was complete: start it again. Exit code {EXIT_CODE}."
    _at_once.append(message)
    try:
        if _asked.is_set():
            raise StoppedEarly(message)
        yield
    except StoppedEarly:
        _log.warning("%s", message)
        raise
    finally:
        _at_once.remove(message)
