"""Logs that a full disk does not fill the terminal for."""

from __future__ import annotations

import logging
import sys
from typing import TypeVar

__all__ = ["forgiving"]

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
