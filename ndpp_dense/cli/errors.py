"""Errors that a user can put right end in a message instead of a traceback."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from ndpp_dense.cli.warning_filters import quiet_frameworks
from ndpp_dense.redaction import hide_secrets, redacted

__all__ = ["Guard", "readable_errors", "shows_tracebacks"]

# What a wrong config, data set, checkpoint or machine raises; anything else is a fault of the program.
USER_ERRORS = (FileNotFoundError, ConnectionError, ValueError, KeyError, FloatingPointError, OSError, ImportError)


def shows_tracebacks(asked: bool) -> bool:
    """Return whether the flag or the environment variable NDPP_DEBUG=1 asks for tracebacks."""
    return asked or os.environ.get("NDPP_DEBUG") == "1"


@contextlib.contextmanager
def readable_errors(traceback: bool) -> Iterator[None]:
    """End with a message and exit code 2, instead of a traceback, where the user can put things right.

    Args:
        traceback: let the traceback through after all, as the environment variable NDPP_DEBUG=1 does.

    Raises:
        SystemExit: With code 2, or 130 after an interruption from the keyboard.
    """
    if shows_tracebacks(traceback):
        yield
        return
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        raise SystemExit(130) from None
    except USER_ERRORS as error:
        message = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        if message.startswith("Caught "):  # a data loader's worker sends its traceback as the message
            message = message.strip().splitlines()[-1]
        rank = f" in process {os.environ['RANK']}" if "RANK" in os.environ else ""
        sys.stderr.write(f"error{rank}: {redacted(message)}\n(--traceback shows where it arose)\n")
        sys.stderr.flush()
        raise SystemExit(2) from None


class Guard:
    """Makes the context of a spawned process: errors are readable, warnings of frameworks are kept back.

    Spawned processes get it first of all that they are given. Reading it sets the filters, so that they stand before a
    framework is imported.
    """

    def __init__(self, traceback: bool) -> None:
        self.traceback = traceback
        quiet_frameworks()
        hide_secrets()

    def __reduce__(self) -> tuple[type[Guard], tuple[bool]]:
        return Guard, (self.traceback,)

    def __call__(self) -> contextlib.AbstractContextManager[None]:
        """The context."""
        return readable_errors(self.traceback)
