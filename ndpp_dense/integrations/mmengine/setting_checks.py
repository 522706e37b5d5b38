"""Values of a config that have the right form and make no sense: found before they stop a run midway."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config

from ndpp_dense.config_files import yaml_fault

__all__ = ["check_settings", "flat_settings", "read_file"]

# Key, and the least that it may be; a whole number.
_WHOLE = {
    "train_cfg.max_iters": 1,
    "train_cfg.max_epochs": 1,
    "train_cfg.val_interval": 1,
    "train_dataloader.batch_size": 1,
    "train_dataloader.num_workers": 0,
    "val_dataloader.num_workers": 0,
    "test_dataloader.num_workers": 0,
    "optim_wrapper.accumulative_counts": 1,
    "default_hooks.logger.interval": 1,
    "model.decode_head.num_classes": 1,
    "model.auxiliary_head.num_classes": 1,
    "randomness.seed": 0,
}
_NOT_NEGATIVE = ("optim_wrapper.optimizer.lr", "optim_wrapper.optimizer.momentum")
_NOT_NEGATIVE += ("optim_wrapper.optimizer.weight_decay",)
_SAVING = "default_hooks.checkpoint.interval"
_MODES = ("whole", "slide")


def read_file(path: Path) -> Config:
    """Reads a config and what it builds on.

    Raises:
        FileNotFoundError: A base is missing.
        ValueError: It is no Python that runs, builds on itself, or describes no model.
    """
    _check_bases(path, ())
    try:
        config = Config.fromfile(str(path))
    except (FileNotFoundError, ImportError):
        raise
    except Exception as error:  # a config is a program of the user's, which can raise anything
        raise ValueError(f"config {path} cannot be read: {_said(error)}.") from error
    if not isinstance(config.get("model"), Mapping) or "type" not in config.model:
        raise ValueError(
            f"config {path} describes no model: it needs `model = dict(type=...)`, or a `_base_` with one."
        )
    return config


def check_settings(config: Config) -> None:
    """Looks at numbers and choices.

    Raises:
        ValueError: With every value that cannot be, and what it may be.
    """
    faults = list(_number_faults(config))
    if faults:
        raise ValueError(f"the config cannot be used: {'; '.join(faults)}.")


def flat_settings(config: Mapping[str, Any] | Config, prefix: str = "") -> dict[str, Any]:
    """Values by their whole key, such as ``optim_wrapper.optimizer.lr``."""
    found = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flat_settings(value, f"{prefix}{key}.")
        elif not isinstance(value, list | tuple):
            found[f"{prefix}{key}"] = value
    return found


def _check_bases(path: Path, users: tuple[Path, ...]) -> None:
    chain = (*users, path.resolve())
    if path.resolve() in users:
        raise ValueError(f"config {path} builds on itself through _base_: {' -> '.join(file.name for file in chain)}.")
    try:
        bases = Config._get_base_files(str(path))
    except yaml.YAMLError as error:
        raise ValueError(f"config {yaml_fault(error, path)}") from error
    except Exception as error:
        raise ValueError(f"config {path} cannot be read: {_said(error)}.") from error
    for base in bases:
        if "::" in str(base):  # of another package
            continue
        file = path.parent / str(base)
        if not file.is_file():
            raise FileNotFoundError(f"config {path}: _base_ names {base!r}, and there is no file {file}.")
        _check_bases(file, chain)


def _said(error: Exception) -> str:
    line = f" in line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
    return f"{type(error).__name__}{line}: {' '.join(str(error).split())[:300]}"


def _value(config: Config, key: str) -> Any:
    node: Any = config._cfg_dict
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _number_faults(config: Config) -> Iterator[str]:
    for key, least in _WHOLE.items():
        value = _value(config, key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            yield f"{key} is {value!r}, it must be a whole number, at least {least}"
    for key in _NOT_NEGATIVE:
        value = _value(config, key)
        if value is not None and (not isinstance(value, int | float) or not 0 <= value < math.inf):
            yield f"{key} is {value!r}, it must be a number, 0 or more and finite"
    value = _value(config, _SAVING)
    if value is not None and (not isinstance(value, int) or (value < 1 and value != -1)):
        yield f"{_SAVING} is {value!r}, it must be at least 1, or -1 for none"
    mode = _value(config, "model.test_cfg.mode")
    if mode is not None and mode not in _MODES:
        yield f"model.test_cfg.mode is {mode!r}, choose from {', '.join(_MODES)}"
