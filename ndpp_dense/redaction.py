"""Text of others as it may be shown: addresses without secrets, and no signs that steer a terminal."""

from __future__ import annotations

import logging
import re
import sys
import traceback
from types import TracebackType
from typing import Any

__all__ = ["hide_secrets", "printable", "redacted", "redacted_address", "shown"]

_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<rest>[^\s'\"<>]*)")
_WHOLE = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<rest>.*)", re.DOTALL)
_PART = re.compile(r"([^&;=]+=)?[^&;]+")  # of a query: its name may be shown
_HIDDEN = "***"
# Control characters but tab and line feed, halves of characters, and what turns the direction of writing.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # which frameworks put into their log


def printable(text: str) -> str:
    """A text in which signs that a terminal would obey, or no file can hold, are escaped as in Python.

    Args:
        text: Of any origin: names in annotations, of files, of classes, messages that quote them.
    """
    return _UNPRINTABLE.sub(lambda sign: sign[0].encode("unicode_escape").decode(), text)


def shown(text: str) -> str:
    """A text :func:`printable` and :func:`redacted`: what all that the commands write goes through."""
    return printable(redacted(text))


def redacted(text: str) -> str:
    """A text in which every address has ``***`` in place of user and password, and of what a query gives.

    Args:
        text: A message with any number of addresses, each without spaces.
    """
    return _ADDRESS.sub(_hidden, text)


def redacted_address(address: str) -> str:
    """As :func:`redacted`, of an address alone, whatever signs are in it; a path stays as it is."""
    whole = _WHOLE.fullmatch(address)
    return _hidden(whole) if whole else address


def _hidden(match: re.Match[str]) -> str:
    place, sign, query = re.fullmatch(r"([^?#]*)(\??)(.*)", match["rest"], re.DOTALL).groups()  # type: ignore[union-attr]
    query, hash_sign, fragment = query.partition("#")
    host = place.partition("/")[0]
    # Only where there is a user, or a password whose slash seems to end the host: paths have @ too.
    if "@" in host or not re.fullmatch(r"[^:]*(:\d*)?|\[.*\](:\d*)?", host):
        place = f"{_HIDDEN}@{place.rpartition('@')[2]}" if "@" in place else _HIDDEN
    query = _PART.sub(lambda part: f"{part[1] or ''}{_HIDDEN}", query)
    return f"{match['scheme']}{place}{sign}{query}{hash_sign}{fragment and _HIDDEN}"


def hide_secrets() -> None:
    """Redacts what any logger of this process says from now on, frameworks' too, and tracebacks that end it."""
    logging.setLogRecordFactory(_redacted_record)
    sys.excepthook = _redacted_traceback


def _shown_in_log(message: str) -> str:
    colours = _COLOUR.findall(message)
    texts = (shown(text) for text in _COLOUR.split(message))
    return "".join(part for pair in zip(texts, [*colours, ""], strict=True) for part in pair)


def _redacted_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record = logging.LogRecord(*args, **kwargs)
    try:
        message = record.getMessage()
    except (TypeError, ValueError):  # what is wrong with the arguments is said where it is formatted
        return record
    hidden = _shown_in_log(message)
    if hidden != message:
        record.msg, record.args = hidden, None
    if record.exc_info:
        record.exc_text = shown("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"))
    return record


def _redacted_traceback(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
    sys.stderr.write(shown("".join(traceback.format_exception(kind, error, at))))
