"""Public names of a package that are imported when they are asked for, so that importing the package stays cheap."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(
    package: str, homes: Mapping[str, str], renamed: Mapping[str, str] | None = None
) -> Callable[[str], Any]:
    """The ``__getattr__`` of such a package (PEP 562).

    Args:
        package: Its name.
        homes: By public name the module that has it.
        renamed: By former name the public name that took its place; to use it warns.

    Returns:
        A function that imports a name, or raises ``AttributeError`` with the names that there are.
    """
    former = renamed or {}

    def find(name: str) -> Any:
        if name in former:
            warnings.warn(
                f"{package}.{name} is now {package}.{former[name]}; the former name goes with the next release.",
                DeprecationWarning,
                stacklevel=2,
            )
            name = former[name]
        if name not in homes:
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}. Public names: {', '.join(sorted(homes))}"
            )
        return getattr(import_module(homes[name]), name)

    return find
