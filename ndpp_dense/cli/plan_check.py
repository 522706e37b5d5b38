"""The prediction of ``ndpp plan`` beside what processes on this machine measure."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ndpp_dense.cli.plan_steps import measure
from ndpp_dense.distributed.plan import Cluster, Work, predict
from ndpp_dense.layers.statistics.schedule import Schedule

__all__ = ["check", "table"]

SCHEDULES = ("fresh", "stale")


def check(worlds: Sequence[int], steps: int) -> dict[str, Any]:
    """Trains a small network as several numbers of processes, on the CPU cores that this one may use.

    Args:
        worlds: Numbers of processes; the first is 1, from which the others are predicted.
        steps: Timed steps, >= 1.

    Returns:
        What was measured and where: numbers, words, lists and dictionaries only.
    """
    load = os.getloadavg()
    runs = {schedule: {str(world): _forked(world, steps, schedule) for world in worlds} for schedule in SCHEDULES}
    return {
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} core(s) for all processes",
        "cores": len(os.sched_getaffinity(0)),
        "load": [load[0], os.getloadavg()[0]],
        "steps": steps,
        "runs": runs,
    }


def table(record: dict[str, Any]) -> list[str]:
    """The lines of a Markdown table, from what :func:`check` returned."""
    lines = [
        f"ResNet-18, 2 images of 64 pixels a process, gloo, {record['machine']}; medians of {record['steps']} steps; "
        f"load of the machine {record['load'][0]:.1f} before and {record['load'][1]:.1f} after",
        "",
        "| schedule | processes | statistics: sums a step | bytes summed, predicted | counted | step, ms, predicted "
        "| measured | CPU a process, ms | waiting for statistics | for gradients |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for schedule, runs in record["runs"].items():
        for world, found in runs.items():
            plan = _predicted(runs, int(world), schedule, record["cores"])
            summed = 0 if world == "1" else found["gradients"] + sum(found["moments"])
            lines.append(
                f"| {schedule} | {world} | {found['sums']} | {summed} | {found['bytes']} | {1e3 * plan:.0f} | "
                f"{1e3 * found['step']:.0f} | {1e3 * found['cpu']:.0f} | {found['wait_statistics']:.1%} | "
                f"{found['wait_gradients']:.1%} |"
            )
    return lines


def _predicted(runs: dict[str, Any], world: int, schedule: str, cores: int) -> float:
    """Seconds of a step, from that of one process and from sums of two sizes over two.

    Processes beyond the cores share them, which slows computing and exchanging down alike.
    """
    alone, pair = runs["1"], runs.get("2", runs["1"])
    crowd, of_pair = max(1.0, world / cores), max(1.0, 2 / cores)
    hop = pair["small"] / 2 * crowd / of_pair
    speed = alone["gradients"] / max(1e-9, pair["large"] - pair["small"]) * of_pair / crowd
    work = Work(alone["step"] * crowd, alone["gradients"], tuple(alone["moments"]))
    return predict(
        work, Cluster(world, inside=speed, latency_inside=hop), overlapped=Schedule.parse(schedule).stale
    ).seconds


def _forked(world: int, steps: int, schedule: str) -> dict[str, Any]:
    """Forks processes after the imports, which take longer than the steps; returns what the first one measured."""
    with tempfile.TemporaryDirectory() as folder:
        children = []
        for rank in range(world):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    result = measure(rank, world, f"{folder}/init", steps, schedule)
                    if rank == 0:
                        Path(folder, "found.json").write_text(json.dumps(result))
                    code = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(code)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        if any(codes):
            raise ConnectionError(f"a run of {world} process(es) failed: exit codes {codes}.")
        return json.loads(Path(folder, "found.json").read_text())
