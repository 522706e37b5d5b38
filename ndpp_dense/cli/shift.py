"""Measure how much a model's answers change when its pictures are moved.

Examples::

    ndpp shift --config resnet18_ndpp_small --weights last.pth --data TAR --shifts -16..16
    ndpp shift --model resnet50.a1_in1k --data imagenet --limit 1000 --along grid --step 10
    ndpp shift --weights ndpp://mask_rcnn_ndpp_demo --shifts -24..24 --limit 30
    ndpp shift --config mask_rcnn_ndpp_small --weights model.pth --dataset v_val=val.json:images
    ndpp shift --config deeplabv3_r18_ndpp_camvid --weights iter_240.pth --data data/camvid

Models are those of `ndpp pretrain` (--config, --weights), of timm (--model; pretrained, or with --weights), and those
of Detectron2 and MMSegmentation (--config and --weights, or of the model zoo). The output folder gets shift.json,
shift.csv and shift.png. An interrupted run goes on where it was when it is started again with the same words.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from ndpp_dense.cli.launching import chosen_device
from ndpp_dense.cli.output import check_folder, say
from ndpp_dense.cli.parsing import Parser
from ndpp_dense.integrations.registry import (
    FRAMEWORKS,
    Framework,
    framework,
    framework_of_config,
    framework_of_task,
)

__all__ = ["add_arguments", "run"]

BORDERS, ALONG = ("mirror", "zero", "reflect", "circular"), ("cross", "grid", "x", "y", "diagonal")


def add_arguments(parser: Parser) -> None:
    """Declares what it takes."""
    parser.signed = ("--shifts",)
    add = parser.add_argument
    add("--config", metavar="NAME", help="path or bare name of the config that the weights were trained with")
    add("--model", metavar="NAME", help="instead: a model of timm")
    add("--weights", default="", metavar="NAME|PATH", help="a file, or of the model zoo (ndpp://NAME)")
    add(
        "--data",
        metavar="PATH",
        help="folder or .tar file with train/CLASS and val/CLASS; folder of a segmentation set",
    )
    add("--dataset", action="append", default=[], metavar="NAME=JSON:IMAGES", help="COCO-format set for a detector")
    tasks = sorted(record.shift_task for record in FRAMEWORKS.values())
    add("--task", choices=tasks, help="default: what the config is for")
    add("--shifts", default="-50..50", metavar="A..B|N,N,...", help="pixels to shift by (default: -50..50)")
    add("--step", type=int, default=1, help="take every so manieth of a range")
    add("--along", choices=ALONG, default="cross", help="axes, each by itself (cross) or all pairs (grid, for a map)")
    add("--border", choices=BORDERS, default="mirror", help="what comes in (default: a mirror mosaic)")
    add("--limit", type=int, metavar="N", help="measure N images, spread evenly over the set")
    add("--batch-size", type=int, default=32, metavar="N", help="images of a forward")
    add("--score", type=float, default=0.5, help="detection: boxes below it do not count for agreement")
    add("--stride", type=int, help="of the network, for the spectrum (default: its own where known, else 32)")
    add("--output", metavar="FOLDER", help="default: output/shift_<name>_<border>_<along>")
    add("--device", choices=("cuda", "cpu"), help="default: cuda where there is a GPU, else cpu")
    add("overrides", nargs="*", metavar="KEY=VALUE|KEY VALUE", help="settings in place of the config's")


def framework_asked_for(args: argparse.Namespace) -> Framework:
    """Return the framework that a command line asks for.

    Raises:
        ValueError: Nothing says which.
    """
    from ndpp_dense.config_files import find_config
    from ndpp_dense.zoo import load_index
    from ndpp_dense.zoo.index import SCHEME

    if args.model:
        return next(record for record in FRAMEWORKS.values() if record.named_models)
    if args.task:
        return framework_of_task(args.task)
    if args.weights.startswith(SCHEME):
        return framework(load_index().find(args.weights).framework)
    if not args.config:
        raise ValueError("name a model: --config with --weights, --model of timm, or --weights ndpp://NAME.")
    return framework_of_config(find_config(args.config))


def _subject_of(args: argparse.Namespace) -> Any:
    """Return the model with its images."""
    from ndpp_dense.robustness.shift.task import SubjectRequest

    record = framework_asked_for(args)
    request = SubjectRequest(
        weights=args.weights,
        config=args.config,
        model=args.model,
        data=args.data,
        datasets=args.dataset,
        overrides=args.overrides,
        device=args.device,
        limit=args.limit,
        score=args.score,
    )
    return record.load(record.shift_subject)(request)


def run(args: argparse.Namespace) -> int:
    """Measures and writes."""
    from ndpp_dense.robustness.shift import measure_shifts, parse_steps, shift_grid
    from ndpp_dense.zoo import as_address

    check_folder("--output", args.output)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    args.weights = as_address(args.weights) if args.weights else ""
    args.device = chosen_device(args.device)
    shifts = shift_grid(parse_steps(args.shifts, args.step), args.along)
    subject = _subject_of(args)
    if args.stride:
        subject = replace(subject, stride=args.stride)
    output = Path(args.output or Path("output") / f"shift_{subject.name}_{args.border}_{args.along}")
    say(
        f"{subject.name}, {subject.task.name}: {len(subject.images)} images at {len(shifts)} shifts, border "
        f"{args.border}, on {args.device}"
    )
    partial = output / "partial"
    result = measure_shifts(
        subject, shifts, border=args.border, batch_size=args.batch_size, partial=partial, progress=True
    )
    _write(result, subject.facts, output)
    shutil.rmtree(partial)
    return 0


def _write(result: Any, facts: Any, output: Path) -> None:
    from ndpp_dense.reports.drawing import drawing
    from ndpp_dense.robustness.shift import draw_shift, shift_record, write_shift_csv, write_shift_json
    from ndpp_dense.robustness.shift.report import shift_table

    record = shift_record(result, facts)
    write_shift_json(record, output / "shift.json")
    write_shift_csv(result, output / "shift.csv")
    with drawing(output / "shift.png"):
        draw_shift(result, output / "shift.png")
    say(shift_table(record), f"shift.json, shift.csv and shift.png in {output}")
