"""What all commands that train have on their command line about processes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from ndpp_dense.cli.errors import Guard
from ndpp_dense.cli.output import say

__all__ = ["add_launch_options", "chosen_device", "launched"]


def add_launch_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a launch; torchrun and srun make all but --timeout superfluous."""
    add = parser.add_argument
    add("--num-gpus", type=int, default=1, help="processes on this machine (on CPU too)")
    add("--num-machines", type=int, default=1, help="machines in the run")
    add("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    add("--dist-url", default="auto", help="tcp://HOST:PORT of machine 0; auto on one machine")
    add("--timeout", type=float, default=30, metavar="MINUTES", help="give up on processes that do not answer")
    add(
        "--auto-scale",
        type=int,
        metavar="N",
        help="the config is meant for N processes: scale batch, learning rate and loader processes to those there are",
    )


def chosen_device(device: str | None) -> str:
    """The device that was asked for; else ``cuda`` where there is a GPU, else ``cpu``."""
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def launched(launch: Callable[..., Any], work: Callable[..., Any], args: argparse.Namespace, device: str) -> None:
    """Runs ``work(args)`` in every process of the run.

    Args:
        launch: :func:`ndpp_dense.distributed.launch`, or a framework's.
        work: Must be importable by name.
        args: Parsed flags, those of :func:`add_launch_options` among them.
        device: ``cuda`` or ``cpu``.
    """
    from ndpp_dense.distributed import LaunchOptions

    if args.auto_scale is not None and args.auto_scale < 1:
        raise ValueError(f"--auto-scale {args.auto_scale}: it must be the number of processes that the config is for.")
    options = LaunchOptions(args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, device, args.timeout)
    launch(work, options, (args,), say=say, guard=Guard(args.traceback))
