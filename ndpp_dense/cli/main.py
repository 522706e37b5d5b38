"""Parses the command line, calls what it names, and ends in a message where the user can put things right."""

from __future__ import annotations

import argparse
import os
import sys
import warnings

__all__ = ["main"]

# What a wrong name, file, network or environment raises; anything else is a fault of the program.
_USER_ERRORS = (ValueError, OSError, KeyError, ImportError)


def main(argv: list[str] | None = None) -> int:
    """The command ``ndpp``.

    Args:
        argv: Words after the command; None takes the process's own.

    Returns:
        The exit code: 0, 1 where a check has failed, 2 where the user has to put something right.
    """
    from ndpp_dense.cli import doctor, infer, plan, zoo

    parser = argparse.ArgumentParser(
        prog="ndpp", description="ND++ for dense prediction: weights, inference, plans, checks."
    )
    parser.add_argument("--traceback", action="store_true", help="show where in the program an error arose")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    zoo.add_parser(commands)
    infer.add_parser(commands)
    plan.add_parser(commands)
    doctor.add_parser(commands)
    args = parser.parse_args(argv)
    _quiet_frameworks()
    try:
        return args.run(args)
    except _USER_ERRORS as error:
        if args.traceback or os.environ.get("NDPP_DEBUG") == "1":
            raise
        message = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        sys.stderr.write(f"error: {message}\n(ndpp --traceback ... shows where it arose)\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


def _quiet_frameworks() -> None:
    """Keeps back warnings of frameworks that were written for older releases: nothing a user can change."""
    for package in ("detectron2", "fvcore", "iopath", "mmengine", "mmcv", "mmseg", "timm"):
        warnings.filterwarnings("ignore", module=f"{package}.*")
    for message in ("`torch.jit.script` is deprecated", "torch.meshgrid", "The given NumPy array is not writable"):
        warnings.filterwarnings("ignore", message=message)
