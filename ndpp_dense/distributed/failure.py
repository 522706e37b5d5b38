"""One rank's failure, told by all: the others only see that a connection was closed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

__all__ = ["OtherRankError", "sharing_failures"]

_KEY = "failed"
_PATIENCE = timedelta(seconds=10)  # for the others to read what happened, or to tell it


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
        first = _first_failure(store, f"{rank}|process {rank} on {socket.gethostname()}: {error}")
        culprit, _, message = first.partition("|")
        with suppress(Exception):
            store.set(f"read/{rank}", "")
        if serves:
            _stay(store, world_size)
        # Whoever fails of itself says so itself, be it the first or not.
        if culprit not in ("", str(rank)) and isinstance(error, RuntimeError):
            raise OtherRankError(message) from error
        raise


def _first_failure(store: Store, own: str) -> str:
    """The first message that any rank left; its own where nobody was before it."""
    with suppress(Exception):  # the store is gone if the rank that keeps it was killed
        return store.compare_set(_KEY, "", own).decode(errors="replace")
    return ""


def _stay(store: Store, world_size: int) -> None:
    """Hangs up, so that the others notice, and waits until they have read the message."""
    # In a thread: it waits for exchanges under way, which may never end.
    threading.Thread(target=_hang_up, daemon=True).start()
    with suppress(Exception):
        store.wait([f"read/{rank}" for rank in range(world_size)], _PATIENCE)


def _hang_up() -> None:
    with suppress(Exception):
        dist.destroy_process_group()
