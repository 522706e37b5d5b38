"""What a config has to know of the processes of the run: launcher, device, scaling."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.dist import infer_launcher

from ndpp_dense.distributed.scaling import Scaling, loader_processes

__all__ = ["auto_scale", "prepare_processes", "ranks_of"]

# Where launchers say how many processes there are.
_WORLD_SIZE = {"pytorch": "WORLD_SIZE", "slurm": "SLURM_NTASKS", "mpi": "OMPI_COMM_WORLD_SIZE"}
_SCHEDULER_STEPS = ("begin", "end", "T_max", "step_size", "total_iters", "warmup")


def ranks_of(launcher: str) -> int:
    """Processes of the run, joined or about to join."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ.get(_WORLD_SIZE.get(launcher, ""), 1))


def prepare_processes(config: Config, timeout: float = 30.0) -> None:
    """Fits the config to processes on CPUs: MMEngine's own defaults are for GPUs.

    Args:
        config: Changed in place.
        timeout: Minutes that loader processes are waited for, and exchanges in groups that MMEngine makes itself
            (``--launcher mpi``).

    Raises:
        ValueError: The config names a launcher that has started no processes.
    """
    config.merge_from_dict({"env_cfg.dist_cfg.timeout": max(1, round(60 * timeout))})  # seconds
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        loader = config.get(name)
        if loader and loader.get("num_workers", 0) > 0:
            loader.setdefault("timeout", 60 * timeout)
    if config.launcher == "none" or torch.cuda.is_available():
        return
    if config.launcher == "pytorch" and not dist.is_initialized() and infer_launcher() != "pytorch":
        raise ValueError(
            "--launcher pytorch: start the processes with torchrun --nproc-per-node N -m ndpp_dense.cli train-seg ..."
        )
    if not dist.is_initialized():
        raise ValueError(f"--launcher {config.launcher} needs GPUs; on CPUs use torchrun, srun or --num-gpus.")
    # By default MMEngine names a device, which DistributedDataParallel refuses for models on CPUs.
    wrapper = {"type": "MMDistributedDataParallel", "device_ids": None, "broadcast_buffers": False}
    config.model_wrapper_cfg = {**wrapper, "find_unused_parameters": config.get("find_unused_parameters", False)}


def auto_scale(config: Config, meant_for: int, world_size: int) -> list[str]:
    """Scales learning rate, schedule and loader processes from one number of processes to another.

    The batch of a process stays as it is, as MMEngine's configs give it.

    Args:
        config: Changed in place.
        meant_for: Processes that the config is written for.
        world_size: Processes that there are.

    Returns:
        Lines that say what was changed.
    """
    scaling = Scaling(meant_for, world_size)
    optimizer, loader = config.optim_wrapper.optimizer, config.train_dataloader
    before = (optimizer.lr, loader.num_workers, config.train_cfg.get("max_iters"))
    optimizer.lr = before[0] * scaling.factor
    loader.num_workers = loader_processes(before[1], int(os.environ.get("LOCAL_WORLD_SIZE", world_size)))
    if before[1] and not loader.num_workers:
        loader.persistent_workers = False
    lines = [
        f"{scaling}: batch {loader.batch_size} a process, {loader.batch_size * world_size} in all",
        f"  learning rate {before[0]:g} -> {optimizer.lr:g}",
        f"  loader processes of a rank {before[1]} -> {loader.num_workers}",
    ]
    if before[2] is not None:
        _scale_schedule(config, scaling)
        lines.append(f"  iterations {before[2]} -> {config.train_cfg.max_iters}, schedule and intervals with them")
    return lines


def _scale_schedule(config: Config, scaling: Scaling) -> None:
    loop = config.train_cfg
    loop.max_iters = scaling.steps(loop.max_iters)
    if loop.get("val_interval"):
        loop.val_interval = scaling.steps(loop.val_interval)
    schedulers = config.get("param_scheduler") or []
    for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
        if scheduler.get("by_epoch", True):
            continue
        for name in _SCHEDULER_STEPS:
            if isinstance(scheduler.get(name), int):
                scheduler[name] = scaling.steps(scheduler[name])
        if scheduler.get("milestones"):
            scheduler.milestones = [scaling.steps(step) for step in scheduler.milestones]
    saving = config.get("default_hooks", {}).get("checkpoint")
    if saving and not saving.get("by_epoch", True) and saving.get("interval", 0) > 0:
        saving.interval = scaling.steps(saving.interval)
