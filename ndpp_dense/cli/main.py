"""Parses the command line, calls what it names, and ends in a message where the user can put things right."""

from __future__ import annotations

import sys
from argparse import REMAINDER
from collections.abc import Sequence
from importlib import import_module

from ndpp_dense.cli.errors import readable_errors
from ndpp_dense.cli.parsing import Parser
from ndpp_dense.cli.warning_filters import quiet_frameworks
from ndpp_dense.redaction import hide_secrets

__all__ = ["COMMANDS", "main"]

# The module of each command, and what it does. A module is imported when its command is called.
COMMANDS = {
    "train-det": ("train_det", "train and evaluate a Detectron2 model"),
    "train-seg": ("train_seg", "train and evaluate an MMSegmentation model"),
    "pretrain": ("pretrain", "train and evaluate a classifier"),
    "infer": ("infer", "predict on images or a video and draw it"),
    "zoo": ("zoo", "weights: list, info, download, verify, path, prune, publish"),
    "convert": ("convert", "convert weights of a backbone between frameworks"),
    "export": ("export", "export a segmentation model to ONNX"),
    "inspect": ("inspect_model", "what whitening does in each layer of a model"),
    "compare": ("compare", "curves, results and settings of several runs"),
    "shift": ("shift", "measure how answers change when pictures are moved"),
    "perceptual": ("perceptual", "compare perceptual distances with opinions"),
    "plan": ("plan", "predict time and bytes of a training step on many GPUs"),
    "doctor": ("doctor", "what is installed, what conflicts, and how to mend it"),
    "install-detectron2": ("install_detectron2.install", "make Detectron2 importable"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``ndpp``.

    Args:
        argv: Words after the command; None takes the process's own.

    Returns:
        The exit code: 0, 1 where a check has failed, 2 where the user has to put something right.
    """
    words = [*(sys.argv[1:] if argv is None else argv)]
    chosen = _parser().parse_args(words)
    module = import_module(f"ndpp_dense.cli.{COMMANDS[chosen.command][0]}")
    parser = Parser(prog=f"ndpp {chosen.command}", description=module.__doc__)
    module.add_arguments(parser)
    args = parser.parse(chosen.words)
    args.traceback = "traceback" in vars(chosen) or "traceback" in vars(args)
    quiet_frameworks()
    hide_secrets()
    try:
        with readable_errors(args.traceback):
            return module.run(args)
    except SystemExit as end:  # of a message, or of a run that was stopped
        return end.code if isinstance(end.code, int) else 1


def _parser() -> Parser:
    from ndpp_dense import __version__

    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items())
    parser = Parser(
        prog="ndpp",
        usage="%(prog)s [-h] [--version] [--traceback] COMMAND ...",
        description="ND++ for dense prediction: training, weights, inference, checks.",
        epilog=f"commands:\n{listed}\n\n`ndpp COMMAND --help` shows what a command takes.",
    )
    parser.add_argument("--version", action="version", version=f"ndpp-dense {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    parser.add_argument("words", nargs=REMAINDER, metavar="...", help="what the command takes")
    return parser
