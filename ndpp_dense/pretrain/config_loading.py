"""From a config name and overrides to checked settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_origin

import yaml

from ndpp_dense.config_files import UniqueKeys, find_config, yaml_fault
from ndpp_dense.pretrain.config import PretrainConfig, field_types

__all__ = ["load_config"]

_BASE = "_base_"


class _Loader(UniqueKeys, yaml.SafeLoader):
    """Safe YAML in which ``1e-4`` is a number, as in YAML 1.2."""


_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def load_config(name: str | Path, overrides: Sequence[str] = (), /, **values: Any) -> tuple[PretrainConfig, Path]:
    """Reads a config.

    A config is a YAML mapping of the fields of :class:`PretrainConfig`. ``_base_`` names another one, relative to it,
    that it builds on; mappings (``ndpp``) are merged, anything else is replaced.

    Args:
        name: Path of a config, or the bare name of one that comes with the package.
        overrides: ``KEY=VALUE`` words, applied to what the files say; a dot leads into a mapping (``ndpp.eps=0.1``).
        **values: Applied last; those that are None are passed over.

    Returns:
        The settings and the file they come from.

    Raises:
        FileNotFoundError: There is no such config, or a base is missing.
        KeyError: A key does not exist; names the nearest.
        ValueError: A file is not readable as YAML, or settings are faulty.
    """
    path = find_config(name)
    settings = _read(path, ())
    for word in overrides:
        settings = _merge(settings, _parse(word))
    settings.update({key: value for key, value in values.items() if value is not None})
    kinds = field_types()
    return PretrainConfig(**{key: _as(kinds[key], value) for key, value in settings.items()}), path


def _read(path: Path, users: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in users:
        raise ValueError(f"config {path} builds on itself.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"config {yaml_fault(error, path)}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"config {path}: it is not YAML: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"config {path} holds a {type(content).__name__}; it must hold 'key: value' lines.")
    base = content.pop(_BASE, None)
    _check_keys(content, f"config {path}")
    if base is None:
        return content
    base_path = path.parent / str(base)
    if not base_path.is_file():
        raise FileNotFoundError(f"config {path}: {_BASE} names {base!r}, but there is no file {base_path}.")
    return _merge(_read(base_path, (*users, path.resolve())), content)


def _parse(word: str) -> dict[str, Any]:
    """Turns ``a.b=1`` into ``{"a": {"b": 1}}``."""
    key, sign, text = word.partition("=")
    if not sign or not key:
        raise ValueError(f"override {word!r} is not KEY=VALUE, such as lr=0.2 or ndpp.eps=0.1.")
    try:
        value = yaml.load(text, _Loader) if text else ""
    except yaml.YAMLError as error:
        raise ValueError(yaml_fault(error, f"override {word!r}")) from error
    first, *rest = key.split(".")
    _check_keys({first: None}, f"override {word!r}")
    for part in reversed(rest):
        value = {part: value}
    return {first: value}


def _check_keys(settings: Mapping[str, Any], where: str) -> None:
    known = list(field_types())
    for key in settings:
        if key not in known:
            near = get_close_matches(str(key), known, n=3)
            hint = f"The nearest: {', '.join(near)}." if near else f"Keys: {', '.join(known)}."
            raise KeyError(f"{where}: no setting {key!r}. {hint}")


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = deepcopy(dict(base))
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _as(kind: Any, value: Any) -> Any:
    """What YAML cannot say: tuples, and text that is empty."""
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(value)
    return "" if kind is str and value is None else value
