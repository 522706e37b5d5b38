"""Values of a config that have the right form and make no sense: found before they stop a run midway."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config

from ndpp_dense.config_files import yaml_fault
from ndpp_dense.training.ranges import BATCH, Range, range_faults

__all__ = ["check_settings", "flat_settings", "read_file"]

_COUNT, _COUNT_OR_0, _SIZE = Range(1, whole=True), Range(0, whole=True), Range(0, above=True)
_SHARE, _FRACTION, _NOT_NEGATIVE = Range(0, 1), Range(0, 1, below=True), Range(0)
# What numbers may be, by patterns of their keys.
_RANGES = {
    "train_cfg.max_iters": _COUNT,
    "train_cfg.max_epochs": _COUNT,
    "train_cfg.val_interval": _COUNT,
    "train_cfg.val_begin": _COUNT_OR_0,
    "*_dataloader.batch_size": BATCH,
    "*_dataloader.num_workers": _COUNT_OR_0,
    "*.pipeline.*.scale": _SIZE,
    "*.pipeline.*.ratio_range": _SIZE,
    "*.pipeline.*.crop_size": _COUNT,
    "*.pipeline.*.cat_max_ratio": Range(0, 1, above=True),
    "*.pipeline.*.prob": _SHARE,
    "optim_wrapper.accumulative_counts": _COUNT,
    "optim_wrapper.optimizer.lr": _NOT_NEGATIVE,
    "optim_wrapper.optimizer.momentum": _FRACTION,
    "optim_wrapper.optimizer.betas": _FRACTION,
    "optim_wrapper.optimizer.weight_decay": _NOT_NEGATIVE,
    "optim_wrapper.clip_grad.max_norm": _SIZE,
    "param_scheduler.*eta_min": _NOT_NEGATIVE,
    "param_scheduler.*power": _SIZE,
    "param_scheduler.*begin": _COUNT_OR_0,
    "param_scheduler.*end": _COUNT,
    "param_scheduler.*gamma": Range(0, 1, above=True),
    "param_scheduler.*start_factor": Range(0, 1, above=True),
    "param_scheduler.*milestones": Range(0, whole=True, empty=True),
    "param_scheduler.*T_max": _COUNT,
    "default_hooks.logger.interval": _COUNT,
    "default_hooks.checkpoint.interval": Range(1, whole=True, also=((-1, "for none"),)),
    "default_hooks.checkpoint.max_keep_ckpts": Range(1, whole=True, also=((-1, "for all"),)),
    "custom_hooks.*.num_batches": _COUNT,
    "randomness.seed": Range(0, 2**31, whole=True),
    "model.data_preprocessor.mean": Range(),
    "model.data_preprocessor.std": _SIZE,
    "model.data_preprocessor.seg_pad_val": Range(0, 255, whole=True),
    "model.*num_classes": _COUNT,
    "model.*dropout_ratio": Range(0, 1, also=((-1, "for none"),)),
    "model.*loss_weight": _NOT_NEGATIVE,
    "model.test_cfg.crop_size": _COUNT,
    "model.test_cfg.stride": _COUNT,
}
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
    for key, value in _leaves(config._cfg_dict, ""):
        for pattern, wanted in _RANGES.items():
            if fnmatchcase(key, pattern):
                yield from range_faults(key, value, wanted)
    mode = _value(config, "model.test_cfg.mode")
    if mode is not None and mode not in _MODES:
        yield f"model.test_cfg.mode is {mode!r}, choose from {', '.join(_MODES)}"


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Values by dotted key, entries of lists of mappings by their place; lists of anything else are one value."""
    if isinstance(value, Mapping):
        items: Any = value.items()
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        items = enumerate(value)
    else:
        yield name, value
        return
    for key, item in items:
        yield from _leaves(item, f"{name}.{key}" if name else str(key))
