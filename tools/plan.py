#!/usr/bin/env python
"""Predict time and bytes of a training step on many GPUs, or check the prediction with processes on this machine.

Examples::

    python tools/plan.py --gpus 64 --nodes 8 --link 200Gb --backbone resnet50 --seconds 0.25
    python tools/plan.py --gpus 8,64,512 --gpus-per-node 8 --backbone resnet50 --seconds 0.25
    python tools/plan.py --check --output output/plan
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from readable_errors import readable_errors

CHECKED = (1, 2, 4)  # processes
REPEATS = 15


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = result.add_argument
    add("--gpus", default="64", help="GPUs in all; several, separated by commas, make a table")
    add("--nodes", type=int, help="machines; default: as many as --gpus-per-node gives")
    add("--gpus-per-node", type=int, default=8)
    add("--link", default="200Gb", help="between machines: 200Gb (bits), 25GB (bytes)")
    add("--inside", default="200GB", help="between the GPUs of a machine")
    add("--latency", type=float, default=15.0, help="microseconds of a hop between machines")
    add("--backbone", default="resnet50", metavar="NAME", help="of list_backbones()")
    add("--seconds", type=float, default=0.25, help="a step on one GPU takes, measured with your batch and precision")
    add("--check", action="store_true", help="compare with runs of 1, 2 and 4 processes here")
    add("--output", metavar="FOLDER", help="keep what --check measured as plan.json")
    add("--traceback", action="store_true", help="show where in the program an error arose")
    return result


def table(args: argparse.Namespace) -> list[str]:
    """Return a line a number of GPUs, with statistics layer by layer (fresh) and in one exchange (stale)."""
    import torch

    from ndpp_dense import WhiteningConfig, convert_to_ndpp, create_backbone
    from ndpp_dense.distributed.plan import Cluster, link_speed, predict, work_of

    with torch.device("meta"):
        model = create_backbone(args.backbone, 1000)
        convert_to_ndpp(model, WhiteningConfig.fast("imagenet"))
    work = work_of(model, args.seconds)
    lines = [
        f"{args.backbone}: {work.gradient_bytes / 1e6:.1f} MB of gradients, {sum(work.moment_bytes) / 1e6:.1f} MB of "
        f"statistics from {len(work.moment_bytes)} layers, {args.seconds:g} s a step on one GPU",
        "| GPUs | nodes | sent a step, MB | fresh: step, ms | waiting | one exchange: step, ms | waiting |",
        "|---|---|---|---|---|---|---|",
    ]
    for gpus in map(int, args.gpus.split(",")):
        nodes = args.nodes or max(1, gpus // args.gpus_per_node)
        latency = {"latency": args.latency * 1e-6}
        cluster = Cluster(gpus, nodes, link_speed(args.link), link_speed(args.inside), **latency)
        fresh, beside = predict(work, cluster), predict(work, cluster, overlapped=True)
        lines.append(
            f"| {gpus} | {nodes} | {fresh.bytes_sent / 1e6:.0f} | {1e3 * fresh.seconds:.1f} | "
            f"{1 - fresh.efficiency:.1%} | {1e3 * beside.seconds:.1f} | {1 - beside.efficiency:.1%} |"
        )
    return lines


def check() -> tuple[list[str], dict]:
    """Train a small network as 1, 2 and 4 processes; compare bytes exactly and steps with the prediction."""
    from ndpp_dense.distributed.plan import Cluster, Work, predict

    found = {world: _measure(world) for world in CHECKED}
    alone, pair = found[1], found[2]
    cores = len(os.sched_getaffinity(0))
    lines = [
        f"{cores} core(s): processes beyond them share; medians of {REPEATS} steps",
        "| processes | bytes predicted | counted | step predicted, ms | measured, ms |",
        "|---|---|---|---|---|",
    ]
    rows = {}
    for world in CHECKED:
        # Two exchanges of different size give latency and speed; processes that share a core slow both down alike.
        crowd = max(1.0, world / cores)
        work = Work(alone["step"] * crowd, alone["gradients"], tuple(alone["moments"]))
        hop = pair["small"] / 2 * crowd / max(1.0, 2 / cores)
        speed = alone["gradients"] / max(1e-9, pair["large"] - pair["small"]) * max(1.0, 2 / cores) / crowd
        plan = predict(work, Cluster(world, inside=speed, latency_inside=hop))
        wanted = 0 if world == 1 else alone["gradients"] + sum(alone["moments"])
        counted, step = found[world]["bytes"], found[world]["step"]
        rows[world] = {"bytes": [wanted, counted], "seconds": [plan.seconds, step]}
        lines.append(f"| {world} | {wanted} | {counted} | {1e3 * plan.seconds:.1f} | {1e3 * step:.1f} |")
    return lines, {"measured": found, "rows": rows, "cores": cores}


def _measure(world: int) -> dict:
    """Fork processes after the imports, which take longer than the steps; return what the first one measured."""
    from plan_steps import steps

    with tempfile.TemporaryDirectory() as folder:
        children = []
        for rank in range(world):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    result = steps(rank, world, f"{folder}/init", REPEATS)
                    if rank == 0:
                        Path(folder, "found.json").write_text(json.dumps(result))
                    code = 0
                finally:
                    os._exit(code)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        if any(codes):
            raise ConnectionError(f"a run of {world} process(es) failed: exit codes {codes}.")
        return json.loads(Path(folder, "found.json").read_text())


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and print."""
    args = parser().parse_args(argv)
    with readable_errors(args.traceback):
        if not args.check:
            print("\n".join(table(args)))
            return
        lines, found = check()
        print("\n".join(lines))
        if args.output:
            folder = Path(args.output)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "plan.json").write_text(json.dumps({**found, "time": time.time()}, indent=1))


if __name__ == "__main__":
    main()
