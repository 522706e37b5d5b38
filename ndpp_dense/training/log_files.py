"""Logs that a full disk neither fills the terminal for nor ends a run for."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ndpp_dense.atomic_file import DISK_FULL

__all__ = ["forgiving", "forgiving_writer"]

_log = logging.getLogger(__name__)
Handler = TypeVar("Handler", bound=logging.Handler)


def forgiving(handler: Handler) -> Handler:
    """A handler that says once, in one line, that it cannot write; logging itself prints a traceback for every line."""
    told: list[str] = []
    usual = handler.handleError

    def handle(record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            usual(record)
            return
        if not told:
            told.append(str(error))
            name = getattr(handler, "baseFilename", None) or getattr(
                getattr(handler, "stream", None), "name", "the log"
            )
            sys.stderr.write(f"{name}: {error.strerror or error}: lines of the log are missing from here on.\n")

    handler.handleError = handle  # type: ignore[method-assign]
    return handler


def forgiving_writer(writer: Any, methods: Sequence[str], name: str) -> None:
    """Lets a writer of records say once, where the disk is full, that they are missing: training goes on.

    Checkpoints, which a run cannot do without, end it.

    Args:
        writer: Changed in place.
        methods: Names of those that write.
        name: Of the file, or what is in it.
    """
    told: list[str] = []
    for method in methods:
        setattr(writer, method, _forgiven(getattr(writer, method), name, told))


def _forgiven(call: Callable[..., Any], name: str, told: list[str]) -> Callable[..., Any]:
    def write(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            if not told:
                told.append(name)
                _log.warning("%s: %s: records are missing from here on.", name, error.strerror)
            return None

    return write
