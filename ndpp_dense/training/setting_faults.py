"""Errors that third-party code raises over settings, in words that name the settings."""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from types import TracebackType
from typing import Any

__all__ = ["faults_of_settings"]

_PACKAGE = Path(__file__).resolve().parents[1]
_LIBRARY = Path(sysconfig.get_path("stdlib"))
_LAYERS = (_PACKAGE / "layers", _PACKAGE / "ops")
# What code that trusts its settings raises over wrong ones. Running out of memory is RuntimeError too, but not of them.
_KINDS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)

_SHOWN = 4  # keys; a value that more of them have says nothing


@contextmanager
def faults_of_settings(what: str, next_step: str, settings: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Turns what a framework or torch raises inside the block into a ``ValueError`` that names the settings.

    To be used where settings are all that goes in. Errors that arise in this package are left as they are: they have
    words of their own, or are its faults.

    Args:
        what: Is being done, such as ``"building the model of CONFIG"``.
        next_step: What the user can do.
        settings: Values by key; keys whose value the error names are named too.

    Raises:
        ValueError: With type, words and place of the error.
    """
    try:
        yield
    except _KINDS as error:
        place = _place(error.__traceback__)
        if place is None or type(error).__name__ == "OutOfMemoryError":
            raise
        words = " ".join(str(error).split())[:300]
        keys = ", ".join(_keys_of(words, settings or {}))
        found = f"{type(error).__name__}: {words or 'no words'} ({place}){f', the value of {keys}' if keys else ''}"
        raise ValueError(f"{what} failed: {found}. {next_step}") from error


def _keys_of(words: str, settings: Mapping[str, Any]) -> list[str]:
    """Keys with a value that stands in the words; values too short to mean anything are passed over."""
    plain = {key: str(value) for key, value in settings.items() if isinstance(value, str | int | float)}
    named = [key for key, value in plain.items() if _names(words, value)]
    return named if len(named) <= _SHOWN else []


def _names(words: str, value: str) -> bool:
    return len(value) > 1 and re.search(rf"(?<![\w.]){re.escape(value)}(?![\w.])", words) is not None


def _place(trace: TracebackType | None) -> str | None:
    """File, line and function of who is to blame for an error; None within this package."""
    frames = [(frame.f_code, line) for frame, line in walk_tb(trace)]
    while frames and _obeys(Path(frames[-1][0].co_filename)):
        frames.pop()
    if not frames or _PACKAGE in Path(frames[-1][0].co_filename).parents:
        return None
    code, line = frames[-1]
    return f"{'/'.join(Path(code.co_filename).parts[-3:])}, line {line}, {code.co_name}"


def _obeys(file: Path) -> bool:
    """Layers do as they were set up, and the standard library as it is called: what they are given counts, not they."""
    if any(room in file.parents for room in _LAYERS):
        return True
    return _LIBRARY in file.parents and "site-packages" not in file.parts
