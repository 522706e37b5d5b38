"""What all training scripts have on their command line about processes."""

import argparse


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


def launch_options(args: argparse.Namespace, device: str):
    """Return what :func:`ndpp_dense.distributed.launch` takes.

    Args:
        args: parsed flags.
        device: ``cuda`` or ``cpu``.
    """
    from ndpp_dense.distributed import LaunchOptions

    if args.auto_scale is not None and args.auto_scale < 1:
        raise ValueError(f"--auto-scale {args.auto_scale}: it must be the number of processes that the config is for.")
    return LaunchOptions(args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, device, args.timeout)


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)
