"""How all commands read their words."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

__all__ = ["Parser"]


class Parser(argparse.ArgumentParser):
    """A parser whose description keeps its lines, with ``--traceback`` for all commands.

    Attributes:
        signed: Options whose value may begin with a minus, such as ``--shifts -16..16``.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **settings)
        self.signed: tuple[str, ...] = ()
        self._nested = False
        # Without a default, so that a command's does not undo what was said before its name.
        add, missing = self.add_argument, argparse.SUPPRESS
        add("--traceback", action="store_true", default=missing, help="show where in the program an error arose")

    def add_subparsers(self, **settings: Any) -> Any:
        """Adds commands of a command, which cannot stand between options."""
        self._nested = True
        return super().add_subparsers(**settings)

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Reads options and other words in any order."""
        joined = self._joined(words)
        return self.parse_args(joined) if self._nested else self.parse_intermixed_args(joined)

    def error(self, message: str) -> NoReturn:
        """Ends with the nearest of the options that there are, and where all are shown; without the usage itself."""
        unknown = message.removeprefix("unrecognized arguments: ").split() if "unrecognized" in message else []
        near = [get_close_matches(word.partition("=")[0], self._option_string_actions, n=1) for word in unknown]
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if choice:
            near.append(get_close_matches(choice[1], re.findall(r"[\w-]+", choice[2]), n=1))
        hints = [f"Did you mean {found[0]}? " for found in near if found]
        self.exit(2, f"error: {message}. {''.join(hints)}`{self.prog} --help` shows all options.\n")

    def _joined(self, words: Sequence[str]) -> list[str]:
        joined: list[str] = []
        for word in words:
            if joined and joined[-1] in self.signed:
                joined[-1] += f"={word}"
            else:
                joined.append(word)
        return joined
