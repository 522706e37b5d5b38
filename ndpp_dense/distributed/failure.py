"""One rank's failure, told by all: the others only see that a connection was closed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist
from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

__all__ = ["OtherRankError", "sharing_failures"]

Result = TypeVar("Result")

_KEY = "failed"
_OWN, _EXCHANGE = "own", "exchange"  # kinds of failures: of a rank itself, and what the others see of it
_NO_STORE = "; where the processes meet nobody answers"
_PATIENCE = timedelta(seconds=10)  # for the others to read what happened, or to tell it
_MOMENT = timedelta(seconds=2)  # in which those that live say so; a launcher waits to start them anew


class OtherRankError(ConnectionError):
    """Another rank failed; the message is its own."""


@contextmanager
def sharing_failures(store: Store, rank: int, world_size: int, serves: bool) -> Iterator[None]:
    """Makes every rank end with the message of the one that failed first.

    Args:
        store: Common memory of the ranks.
        rank: This one.
        world_size: How many there are.
        serves: Whether this process keeps the store, and must stay until the others have read it.

    Raises:
        OtherRankError: An exchange broke off because another rank had failed.
    """
    try:
        yield
    except Exception as error:
        kind = _EXCHANGE if _of_exchange(error) else _OWN
        own = f"{rank}|{kind}|process {rank} on {socket.gethostname()}: {error}"
        first = _in_time(lambda: store.compare_set(_KEY, "", own).decode(errors="replace"))
        culprit, first_kind, message = (first or "||").split("|", 2)
        nobody_knows = kind == _EXCHANGE and first_kind != _OWN
        if first is not None:
            _in_time(lambda: store.set(f"read/{rank}", ""))
            if serves or nobody_knows:
                _stay(store, world_size, _PATIENCE if serves else _MOMENT)
        if nobody_knows:
            silent = _NO_STORE if first is None else _in_time(lambda: _silent(store, world_size))
            raise OtherRankError(
                f"an exchange with the other processes broke off ({str(error).splitlines()[0]}){silent or ''}. Was one "
                "of them killed, is the network down, or is one slower than --timeout allows?"
            ) from error
        # Whoever fails of itself says so itself, be it the first or not.
        if culprit not in ("", str(rank)) and isinstance(error, RuntimeError):
            raise OtherRankError(message) from error
        raise


def _of_exchange(error: Exception) -> bool:
    """Whether it is a collective that failed, which says nothing about the cause."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _silent(store: Store, world_size: int) -> str:
    """Who has said nothing even now."""
    silent = [str(rank) for rank in range(world_size) if not store.check([f"read/{rank}"])]
    return f"; not a word from process {', '.join(silent)}" if silent else ""


def _in_time(call: Callable[[], Result]) -> Result | None:
    """What a call to the store returns; None where it fails or does not: its machine may be gone or cut off."""
    found: list[Result] = []

    def run() -> None:
        with suppress(Exception):
            found.append(call())

    # In a thread, because the store itself would wait as long as TCP does: a quarter of an hour.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_PATIENCE.total_seconds())
    return found[0] if found else None


def _stay(store: Store, world_size: int, limit: timedelta) -> None:
    """Hangs up, so that the others notice, and waits until all have read the message."""
    # In a thread: it waits for exchanges under way, which may never end.
    threading.Thread(target=_hang_up, daemon=True).start()
    with suppress(Exception):
        store.wait([f"read/{rank}" for rank in range(world_size)], limit)


def _hang_up() -> None:
    with suppress(Exception):
        dist.destroy_process_group()
