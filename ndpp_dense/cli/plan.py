"""What a training step takes on many GPUs, and whether that is so with processes on this machine.

Examples::

    ndpp plan --gpus 64 --nodes 8 --link 200Gb --backbone resnet50 --seconds 0.25
    ndpp plan --gpus 64 --model mask_rcnn_ndpp --seconds 0.3
    ndpp plan --gpus 8,64,512 --gpus-per-node 8 --backbone resnet50 --seconds 0.25
    ndpp plan --check --output output/plan
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ndpp_dense.cli.output import check_folder, say

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what it takes."""
    add = parser.add_argument
    add("--gpus", default="64", help="GPUs in all; several, separated by commas, make a table")
    add("--nodes", type=int, help="machines; default: as many as --gpus-per-node gives")
    add("--gpus-per-node", type=int, default=8)
    add("--link", default="200Gb", help="between machines: 200Gb (bits), 25GB (bytes)")
    add("--inside", default="200GB", help="between the GPUs of a machine")
    add("--latency", type=float, default=15.0, help="microseconds of a hop between machines")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--backbone", default="resnet50", metavar="NAME", help="of list_backbones(), with preset fast")
    what.add_argument("--model", metavar="NAME", help="of the model zoo (`ndpp zoo list`), with weights or without")
    add("--seconds", type=float, default=0.25, help="a step on one GPU takes, measured with your batch and precision")
    add("--check", action="store_true", help="compare with runs of several processes here, on CPUs")
    add("--processes", default="1,2,4", help="of --check; the first is 1")
    add("--steps", type=int, default=15, help="of --check, timed")
    add("--output", type=Path, metavar="FOLDER", help="keep what --check measured as plan.json")
    add("--record", type=Path, metavar="FILE", help="print the table of such a plan.json again")


def run(args: argparse.Namespace) -> int:
    """Predicts, or checks the prediction."""
    check_folder("--output", args.output)
    if not 0 < args.seconds < math.inf or args.gpus_per_node < 1 or (args.nodes is not None and args.nodes < 1):
        raise ValueError(
            f"--seconds {args.seconds:g} must be above 0, --gpus-per-node {args.gpus_per_node} and "
            f"--nodes {args.nodes} at least 1."
        )
    if args.record:
        from ndpp_dense.cli.plan_check import table

        say(*table(_record(args.record)))
    elif args.check:
        _check(args)
    else:
        say(*_predicted(args))
    return 0


def _record(path: Path) -> Any:
    if path.exists() and not path.is_file():
        raise ValueError(f"--record {path}: it is no file. Name a plan.json that --check --output has written.")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"--record {path} is no JSON: {error}. Name a plan.json of --check --output.") from error
    if not isinstance(record, dict) or not {"machine", "cores", "load", "steps", "runs"} <= record.keys():
        raise ValueError(f"--record {path} is no record of --check. Name a plan.json of --check --output.")
    return record


def _check(args: argparse.Namespace) -> None:
    from ndpp_dense.cli.plan_check import check, table

    worlds = _numbers("--processes", args.processes)
    if worlds[0] != 1 or args.steps < 1:
        raise ValueError(f"--processes {args.processes} must begin with 1 and --steps {args.steps} be at least 1.")
    record = check(worlds, args.steps)
    say(*table(record))
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        (args.output / "plan.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _predicted(args: argparse.Namespace) -> Iterator[str]:
    """A line a number of GPUs, with statistics layer by layer (fresh) and in one exchange (stale)."""
    from ndpp_dense.distributed.plan import Cluster, full_moment_bytes, link_speed, predict, work_of

    model = _network(args)
    work = work_of(model, args.seconds)
    moments = sum(work.moment_bytes)
    share = f" ({moments / full:.3f} of what whole matrices would be)" if (full := full_moment_bytes(model)) else ""
    yield (
        f"{args.model or args.backbone}: {work.gradient_bytes / 1e6:.1f} MB of gradients, {moments / 1e6:.1f} MB of "
        f"statistics from {len(work.moment_bytes)} layers{share}, {args.seconds:g} s a step on one GPU"
    )
    yield ""
    yield "| GPUs | nodes | sent a step, MB | fresh: step, ms | waiting | one exchange: step, ms | waiting |"
    yield "|---|---|---|---|---|---|---|"
    for gpus in _numbers("--gpus", args.gpus):
        nodes = args.nodes or max(1, gpus // args.gpus_per_node)
        cluster = Cluster(gpus, nodes, link_speed(args.link), link_speed(args.inside), args.latency * 1e-6)
        fresh, beside = predict(work, cluster), predict(work, cluster, overlapped=True)
        yield (
            f"| {gpus} | {nodes} | {fresh.bytes_sent / 1e6:.0f} | {1e3 * fresh.seconds:.1f} | "
            f"{1 - fresh.efficiency:.1%} | {1e3 * beside.seconds:.1f} | {1 - beside.efficiency:.1%} |"
        )


def _network(args: argparse.Namespace) -> Any:
    """What is to be trained, with random weights."""
    import torch

    from ndpp_dense import WhiteningConfig, convert_to_ndpp, create_backbone
    from ndpp_dense.cli.frameworks import framework_of
    from ndpp_dense.zoo import load_index

    if args.model:
        row = load_index().find(args.model)
        return framework_of(row).build_zoo_model(row)
    with torch.device("meta"):
        model = create_backbone(args.backbone, 1000)
        convert_to_ndpp(model, WhiteningConfig.fast("imagenet"))
    return model


def _numbers(flag: str, text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"{flag} {text!r}: it must be whole numbers, separated by commas: 8,64.") from None
