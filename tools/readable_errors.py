"""Errors that a user can put right end in a message instead of a traceback."""

import contextlib
import os
import sys
from collections.abc import Iterator

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
    """
    if shows_tracebacks(traceback):
        yield
        return
    try:
        yield
    except USER_ERRORS as error:
        message = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        if message.startswith("Caught "):  # a data loader's worker sends its traceback as the message
            message = message.strip().splitlines()[-1]
        rank = f" in process {os.environ['RANK']}" if "RANK" in os.environ else ""
        print(f"error{rank}: {message}\n(--traceback shows where it arose)", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
