"""Compare runs: results, curves, cost, and the settings in which they differ.

Examples::

    ndpp compare output/mask_rcnn_gn_small output/mask_rcnn_ndpp_small
    ndpp compare output/resnet18_* --output look

RUN is the output folder of a run of train-det, train-seg or pretrain that has ended or was stopped: its report.json is
read. The output folder gets compare.html, compare.png and compare.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ndpp_dense.cli.output import check_folder, say, table

__all__ = ["add_arguments", "run"]

_MOST = 30  # rows of settings on the terminal
_WIDEST = 40  # characters of a value on the terminal; the page has all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what it takes."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="output folder of a run")
    parser.add_argument("--output", default="output/compare", metavar="FOLDER", help="default: output/compare")


def run(args: argparse.Namespace) -> int:
    """Reads, writes and shows the tables."""
    check_folder("--output", args.output)
    from ndpp_dense.reports.comparison import comparison_rows, differing_settings, read_runs, write_comparison

    runs = read_runs(args.runs)
    write_comparison(runs, Path(args.output))
    say(table(comparison_rows(runs)))
    differing = differing_settings(runs)
    if differing:
        cut = [tuple(_shortened(cell) for cell in row) for row in differing]
        say("", table([("setting", *(one.label for one in runs)), *cut[:_MOST]]))
        if len(cut) > _MOST:
            say(f"and {len(cut) - _MOST} more: see compare.html")
    say("", f"compare.html, compare.png, compare.json in {args.output}")
    return 0


def _shortened(cell: str) -> str:
    return cell if len(cell) <= _WIDEST else f"{cell[: _WIDEST - 1]}…"
