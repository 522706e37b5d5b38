"""Ending a run when a scheduler or a person asks for it: at the next step, with a checkpoint, on all ranks together."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

__all__ = [
    "EXIT_CODE",
    "INTERRUPTED",
    "EvaluationStopped",
    "StoppedEarly",
    "UntilStopped",
    "finishing_the_step",
    "is_new_press",
    "stop_agreed",
    "stop_asked",
    "stop_vote",
    "stopping_at_once",
    "until_stopped",
    "watching_for_stop",
]

_log = logging.getLogger(__name__)

EXIT_CODE = 75  # "try again later" in sysexits.h: what a batch script requeues on
INTERRUPTED = 130  # of shells, after Ctrl-C: nothing is requeued
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # of scancel, preemption and torchrun; of sbatch --signal=USR1@120
_ONE_PRESS = 1.0  # seconds in which one Ctrl-C may arrive twice: from the terminal, and passed on by a launcher
_KEYBOARD = 4096.0  # what a rank's vote weighs after Ctrl-C: more than the votes of all ranks otherwise
_asked = threading.Event()
_by_keyboard = threading.Event()
_pressed = [-_ONE_PRESS]  # when
_at_once: list[str] = []  # what to say where there is nothing to save first
_watched: list[int] = []  # processes that watch


class StoppedEarly(SystemExit):
    """The run was asked to stop and has saved everything; ends with :data:`EXIT_CODE` or :data:`INTERRUPTED`.

    Args:
        message: What was saved; the exit code is added to it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(INTERRUPTED if _by_keyboard.is_set() else EXIT_CODE)
        self.message = f"{message} Exit code {self.code}."

    def __str__(self) -> str:
        return self.message


class EvaluationStopped(Exception):  # noqa: N818  (a message within the program, no error of anybody)
    """An evaluation inside a training was left, on all ranks, because one of them was asked to stop."""


class UntilStopped:
    """Batches of an evaluation, up to where this rank is asked to stop; all else is the loader's.

    What was left out must be asked of all ranks, by :func:`stop_vote`, before results are gathered.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        return until_stopped(self._loader)

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def until_stopped(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches up to where this rank is asked to stop."""
    for batch in batches:
        if _asked.is_set():
            return
        yield batch


def stop_asked() -> bool:
    """Whether this process got the signal. Ranks must agree before they act on it."""
    return _asked.is_set()


def stop_vote() -> float:
    """A number for a sum over all ranks, which :func:`stop_agreed` reads: 0 where this one was not asked to stop."""
    return 0.0 if not _asked.is_set() else _KEYBOARD if _by_keyboard.is_set() else 1.0


def stop_agreed(total: float) -> bool:
    """Whether any rank was asked to stop; all of them then end with the same code.

    Args:
        total: Sum of :func:`stop_vote` over all ranks.
    """
    if total > _KEYBOARD / 2:
        _by_keyboard.set()
    return total > 0


@contextmanager
def watching_for_stop() -> Iterator[None]:
    """Inside the block :data:`SIGNALS` set what :func:`stop_asked` returns instead of ending the process.

    More of them change nothing: a scheduler signals every process, and torchrun passes its own on besides. Only the
    main thread can watch; in others nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _forget()
    own = os.getpid()
    _watched.append(own)

    def ask(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:  # a loader process: it ends when this one does
            return
        _asked.set()
        if _at_once:
            raise StoppedEarly(_at_once[-1])

    try:
        with _handled(ask, SIGNALS):
            yield
    finally:
        _watched.pop()
        _forget()


def _hold(how: int) -> None:
    if _watched and hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(how, [signal.SIGTERM])


def _heed_the_parent_alone() -> None:
    """In a process that is forked while a run watches, lets nobody but the run end it by SIGTERM.

    Schedulers and ``timeout`` signal all processes of a job, and torch's loader processes, which have a handler of
    their own, would be gone before the run has finished its step and saved.
    """
    if _watched and hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)


os.register_at_fork(
    before=partial(_hold, signal.SIG_BLOCK),
    after_in_parent=partial(_hold, signal.SIG_UNBLOCK),
    after_in_child=_heed_the_parent_alone,
)


@contextmanager
def finishing_the_step() -> Iterator[None]:
    """Inside the block Ctrl-C asks to stop as :data:`SIGNALS` do; pressed again, it ends the process at once.

    Outside of it, where nothing would be lost, it ends the process as in any program of Python.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = os.getpid()

    def ask(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:
            return
        again = _by_keyboard.is_set()
        if not is_new_press():
            return
        if again:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(own, signal.SIGINT)
        _by_keyboard.set()
        _asked.set()
        if int(os.environ.get("RANK", 0)) == 0:
            sys.stderr.write("interrupted: a checkpoint is saved after this step; Ctrl-C again ends without\n")

    with _handled(ask, (signal.SIGINT,)):
        yield


def is_new_press() -> bool:
    """Whether Ctrl-C was pressed anew, and this is not the same press by another way."""
    now = time.monotonic()
    fresh = now - _pressed[0] >= _ONE_PRESS
    if fresh:
        _pressed[0] = now
    return fresh


@contextmanager
def stopping_at_once(what: str) -> Iterator[None]:
    """Inside the block a signal ends the process where it is: for work that leaves nothing to go on from.

    Args:
        what: Is broken off; for the message.

    Raises:
        StoppedEarly: A signal came, now or before.
    """
    message = f"{what} was stopped by a signal before it was complete: start it again."
    _at_once.append(message)
    try:
        if _asked.is_set():
            raise StoppedEarly(message)
        yield
    except StoppedEarly as stop:
        _log.warning("%s", stop)
        raise
    finally:
        _at_once.remove(message)


@contextmanager
def _handled(handler: Any, numbers: Iterable[signal.Signals]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)


def _forget() -> None:
    _asked.clear()
    _by_keyboard.clear()
    _pressed[0] = -_ONE_PRESS
