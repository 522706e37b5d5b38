"""Reading the ``ndpp`` dictionary of a config: the same keys as in Detectron2, in lower case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from ndpp_dense.layers.config import WhiteningConfig, preset

_FIELDS = tuple(entry.name for entry in fields(WhiteningConfig))


@dataclass(frozen=True)
class NDPPOptions:
    """What the ``ndpp`` dictionary of a model says.

    Attributes:
        config: How to whiten.
        architecture: Type of the model that is built and converted.
        rules: Exceptions by layer name, pattern or type.
        verify: Whether to prove on a blank image that every converted layer runs.
    """

    config: WhiteningConfig
    architecture: str = "EncoderDecoder"
    rules: dict[str, Any] = field(default_factory=dict)
    verify: bool = True


def read_options(values: Mapping[str, Any] | None) -> NDPPOptions:
    """Reads an ``ndpp`` dictionary.

    Args:
        values: ``architecture``, ``preset``, ``task``, ``rules``, ``verify`` and any field of ``WhiteningConfig``; a
            field that is None is as the preset has it. None stands for an empty dictionary.

    Raises:
        ValueError: An unknown key (the nearest is named) or an invalid value.
    """
    values = dict(values or {})
    known = ("architecture", "preset", "task", "rules", "verify", *_FIELDS)
    unknown = [str(name) for name in values if name not in known]
    if unknown:
        near = get_close_matches(unknown[0], known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"The ndpp settings have no key {unknown[0]!r}.{hint} Keys: {', '.join(known)}.")
    rest = {name: values[name] for name in ("architecture", "verify") if name in values}
    rules = {name: dict(rule) if isinstance(rule, Mapping) else rule for name, rule in values.get("rules", {}).items()}
    return NDPPOptions(whitening_config(values), rules=rules, **rest)


def whitening_config(values: Mapping[str, Any]) -> WhiteningConfig:
    """The preset that ``preset`` and ``task`` name (``fast``, ``cityscapes``), with the fields that are set.

    Args:
        values: Other keys than these and the fields are passed over.

    Raises:
        ValueError: Unknown preset or task, or an invalid value.
    """
    chosen = {name: values[name] for name in _FIELDS if values.get(name) is not None}
    return preset(values.get("preset", "fast"), values.get("task", "cityscapes")).override(chosen)


def split_whitening(values: Mapping[str, Any]) -> tuple[WhiteningConfig, dict[str, Any]]:
    """Parts a layer's config dictionary into how to whiten and the rest, which the plain layer takes."""
    rest = {name: value for name, value in values.items() if name not in (*_FIELDS, "preset", "task")}
    return whitening_config(values), rest
