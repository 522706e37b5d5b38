"""From a config name and command-line choices to a complete, checked configuration."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log

from ndpp_dense.config_files import find_config
from ndpp_dense.distributed.main_rank import decided_by_main
from ndpp_dense.integrations.mmengine.checkpoint import newest_sound
from ndpp_dense.integrations.mmengine.config import read_options
from ndpp_dense.integrations.mmengine.setting_checks import check_settings, read_file
from ndpp_dense.integrations.mmseg.checked_data import check_data, check_pipelines

__all__ = ["build_config", "checkpoint_folder", "choose_resumed", "evaluated_checkpoint"]
_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def build_config(
    name: str,
    *,
    work_dir: str | None = None,
    dataset: str | None = None,
    resume: bool = False,
    amp: bool = False,
    launcher: str = "none",
    options: Mapping[str, Any] | None = None,
) -> Config:
    """Builds the configuration of a run.

    Args:
        name: path of a config, or the bare name of one that comes with the package.
        work_dir: folder of the run; None takes the config's, or ``output/<config name>`` where it sets none.
        dataset: folder of the config's data set, in place of every ``data_root``.
        resume: continue the newest checkpoint of ``work_dir``.
        amp: mixed precision in bfloat16.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        options: dotted keys and values, applied last.

    Raises:
        FileNotFoundError: config, data or pretrained weights are missing; says what to do.
        KeyError: an option names a key that does not exist; names the nearest.
        ValueError: a setting is invalid.
    """
    path = find_config(name)
    config = read_file(path)
    if dataset is not None:
        for loader in filter(None, map(config.get, _LOADERS)):
            loader.dataset.data_root = dataset
    _check_options(config, options or {})
    config.merge_from_dict(dict(options or {}))
    check_settings(config)
    config.launcher, config.resume = launcher, resume
    config.work_dir = work_dir or config.get("work_dir") or str(Path("output") / path.stem)
    if amp:
        _use_amp(config)
    checkpoint = config.get("default_hooks", {}).get("checkpoint")
    if checkpoint and checkpoint.type == "CheckpointHook":
        checkpoint.type = "NDPPCheckpointHook"
    if config.model.type == "NDPPModel":
        _check_whitening(config)
    check_pipelines(config)
    check_data(config)
    _check_weights(config)
    return config


def evaluated_checkpoint(config: Config) -> str:
    """The checkpoint to evaluate: ``load_from``, or with ``resume`` the newest in ``work_dir``.

    Raises:
        FileNotFoundError: There is none.
    """
    found = newest_sound(checkpoint_folder(config)) if config.resume else None
    found = found or config.get("load_from")
    if not found:
        raise FileNotFoundError(
            f"Nothing to evaluate: give --cfg-options load_from=FILE, or --resume for the newest checkpoint in "
            f"{config.work_dir}{'' if config.resume else ' (--resume is not given)'}."
        )
    return str(found)


def choose_resumed(config: Config) -> None:
    """Sets ``load_from`` and ``resume`` to the newest sound checkpoint of ``work_dir``, the same on all ranks.

    Where there is none, the run starts from the beginning.

    Raises:
        ValueError: There are checkpoints, and none is sound.
    """
    found = decided_by_main(lambda: newest_sound(checkpoint_folder(config), adopt=True))
    config.resume = found is not None
    if found is None:
        print_log(f"Nothing to resume in {config.work_dir}: starting fresh.", "current", logging.WARNING)
    else:
        config.load_from = found


def checkpoint_folder(config: Config) -> str:
    """Where MMEngine's CheckpointHook writes."""
    folder = config.get("default_hooks", {}).get("checkpoint", {}).get("out_dir")
    return str(Path(folder) / Path(config.work_dir).name) if folder else config.work_dir


def _check_options(config: Config, options: Mapping[str, Any]) -> None:
    for key in options:
        node: Any = config
        parts = key.split(".")
        for depth, part in enumerate(parts):
            if isinstance(node, list | tuple) and part.isdigit():
                if int(part) >= len(node):
                    raise KeyError(f"--cfg-options: no key {key!r}: {'.'.join(parts[:depth])} has {len(node)} entries.")
                node = node[int(part)]
                continue
            if not isinstance(node, Mapping | Config):
                break  # replaces a value as a whole
            names = list(node.keys())
            if part in names:
                node = node[part]
                continue
            if part == "init_cfg":
                break  # every module takes one
            near = get_close_matches(part, names, n=1, cutoff=0.75)
            if depth < len(parts) - 1 or near:
                hint = f" Did you mean {'.'.join([*parts[:depth], *near, *parts[depth + 1 :]])!r}?" if near else ""
                raise KeyError(f"--cfg-options: no key {key!r}.{hint} Keys there: {', '.join(sorted(names))}.")
            break


def _check_whitening(config: Config) -> None:
    options = read_options(config.model.get("ndpp"))
    hooks = [hook.get("type") for hook in config.get("custom_hooks") or []]
    if options.fits_momentum and config.get("train_dataloader") is not None and "NDPPStatsHook" not in hooks:
        raise ValueError(
            "custom_hooks has no NDPPStatsHook, which fits the momentum of ND++ statistics to the batch: add "
            "dict(type='NDPPStatsHook'), or name model.ndpp.momentum."
        )


def _use_amp(config: Config) -> None:
    if not torch.cuda.is_available():
        raise ValueError("--amp needs a GPU: MMEngine has no mixed precision on CPUs.")
    if config.optim_wrapper.type not in ("OptimWrapper", "AmpOptimWrapper"):
        raise ValueError(f"--amp replaces an OptimWrapper, but optim_wrapper.type is {config.optim_wrapper.type!r}.")
    # bfloat16 has float32's range and needs no loss scaling.
    config.optim_wrapper.update(type="AmpOptimWrapper", dtype="bfloat16", loss_scale=1.0)


def _check_weights(config: Config) -> None:
    for where, init in _init_configs(config.model, "model"):
        if not isinstance(init, Mapping) or not isinstance(init.get("checkpoint", ""), str):
            raise ValueError(
                f"{where}.init_cfg is {init!r}, it must be a mapping, such as dict(type='Pretrained', checkpoint=FILE)."
            )
        file = init.get("checkpoint", "")
        if init.get("type") == "Pretrained" and "://" not in file and not Path(file).expanduser().is_file():
            raise FileNotFoundError(
                f"The pretrained weights {file!r} of {where} are missing. Give yours with "
                f"--cfg-options {where}.init_cfg.checkpoint=FILE, or train from scratch (configs that end in _scratch)."
            )


def _init_configs(node: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        found = node.get("init_cfg")
        for init in found if isinstance(found, list | tuple) else [found] if found is not None else []:
            yield name, init
        for key, value in node.items():
            yield from _init_configs(value, f"{name}.{key}")
