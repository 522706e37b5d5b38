"""Pictures are extras: what goes wrong while one is drawn costs that picture, and nothing else."""

from __future__ import annotations

import logging
import os
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["drawing", "literal"]

_log = logging.getLogger(__name__)
_REASON = 200  # characters


@contextmanager
def drawing(picture: str | os.PathLike[str]) -> Iterator[None]:
    """Inside the block an error is told in one line, and the program goes on after it.

    matplotlib's warnings (a font has no such character, a layout has no room) are of no use to who trains a model, and
    are kept back.

    Args:
        picture: File that is drawn, for the message.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # fonts, sizes, file formats: there is no list of what drawing can raise
        reason = " ".join(str(error).split())[:_REASON] or "no reason given"
        _log.warning("%s was not drawn (%s: %s); all else is complete.", Path(picture), type(error).__name__, reason)


def literal(text: str, longest: int = 40) -> str:
    r"""A name of the user's as matplotlib draws it character by character, in one line.

    matplotlib takes what stands between two ``$`` for a formula, refuses half a surrogate pair, and leaves names that
    begin with ``_`` out of legends.

    Args:
        text: Any.
        longest: Characters that are shown.
    """
    spaced = "".join(" " if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") else letter for letter in text)
    shown = spaced if len(spaced) <= longest else spaced[: longest - 1] + "…"
    return (" " + shown if shown.startswith("_") else shown).replace("$", r"\$")
