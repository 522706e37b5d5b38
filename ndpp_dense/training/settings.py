"""Which settings of a resumed run are others than before, and which of the two count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

__all__ = ["changed_settings", "flat_settings", "held_settings"]

_ABSENT = "not set"
_LONGEST = 120  # characters of a value that are shown


def flat_settings(settings: Mapping[str, Any], leave_out: Sequence[str] = ()) -> dict[str, str]:
    """Settings of any depth by dotted name, as text.

    Args:
        settings: Mappings and lists within mappings.
        leave_out: Patterns of names that do not decide what is trained, such as the folder of the run.
    """
    found = {name: repr(value) for name, value in _leaves(settings, "")}
    return {name: value for name, value in found.items() if not _matches(name, leave_out)}


def changed_settings(now: Mapping[str, str], before: Mapping[str, str], held: Sequence[str]) -> list[str]:
    """A line for each setting that differs.

    Args:
        now: This run's, see :func:`flat_settings`.
        before: Those of the run that is resumed.
        held: Patterns of names whose values are part of the checkpoint, which takes precedence.
    """
    lines = []
    for name in sorted({*now, *before}):
        here, there = now.get(name, _ABSENT), before.get(name, _ABSENT)
        if here == there:
            continue
        counts = f"{_short(here)} counts"
        if _matches(name, held):
            counts = f"the checkpoint's {_short(there)} counts; to change it, start from its weights in another folder"
        lines.append(f"{name} is {_short(here)} here and was {_short(there)} in the run that is resumed: {counts}.")
    return lines


def held_settings(now: Mapping[str, str], before: Mapping[str, str], held: Sequence[str]) -> dict[str, str]:
    """This run's settings with those of the checkpoint where they take precedence: what the next checkpoint says."""
    own = {name: value for name, value in now.items() if not _matches(name, held)}
    return own | {name: value for name, value in before.items() if _matches(name, held)}


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        items: Any = value.items()
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        items = enumerate(value)
    else:
        yield name, list(value) if isinstance(value, tuple) else value
        return
    for key, item in items:
        yield from _leaves(item, f"{name}.{key}" if name else str(key))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
