"""Where one process stands in the run, by the variables of torchrun and SLURM."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Place", "expand_hosts", "find_place", "slurm_place", "torchrun_place"]


@dataclass(frozen=True)
class Place:
    """One process of a run.

    Attributes:
        rank: Its number.
        world_size: How many there are.
        local_rank: Its number on its machine.
        node: Number of its machine.
        host: Name or address of the machine on which the processes meet.
        port: Where on it.
        served: Whether something else (torchrun's agent) answers there; otherwise rank 0 does.
        attempt: How many times the run was started anew; each attempt meets apart from the former.
        hosts: Names of the machines by number, as far as they are known.
    """

    rank: int
    world_size: int
    local_rank: int
    node: int
    host: str
    port: int
    served: bool = False
    attempt: int = 0
    hosts: tuple[str, ...] = ()


def find_place(env: Mapping[str, str] | None = None) -> Place | None:
    """The place that torchrun's or SLURM's variables give this process; None where neither started it."""
    env = os.environ if env is None else env
    return torchrun_place(env) or slurm_place(env)


def torchrun_place(env: Mapping[str, str]) -> Place | None:
    """Reads the variables of torchrun, and of whoever sets them by hand."""
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} <= env.keys():
        return None
    node = int(env.get("GROUP_RANK", int(env["RANK"]) // int(env.get("LOCAL_WORLD_SIZE", 1))))
    return Place(
        int(env["RANK"]),
        int(env["WORLD_SIZE"]),
        int(env["LOCAL_RANK"]),
        node,
        env["MASTER_ADDR"],
        int(env["MASTER_PORT"]),
        served=env.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        attempt=int(env.get("TORCHELASTIC_RESTART_COUNT", 0)),
    )


def slurm_place(env: Mapping[str, str]) -> Place | None:
    """Reads the variables of an srun step of several tasks; an sbatch script without srun has no step."""
    if not {"SLURM_STEP_ID", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS"} <= env.keys():
        return None
    world_size = int(env.get("SLURM_STEP_NUM_TASKS", env["SLURM_NTASKS"]))
    if world_size < 2:
        return None
    hosts = expand_hosts(env.get("SLURM_STEP_NODELIST", env.get("SLURM_NODELIST", "127.0.0.1")))
    return Place(
        int(env["SLURM_PROCID"]),
        world_size,
        int(env["SLURM_LOCALID"]),
        int(env.get("SLURM_NODEID", 0)),
        env.get("MASTER_ADDR", hosts[0]),
        # All tasks must choose the same port and jobs that share a machine different ones.
        int(env.get("MASTER_PORT", 20000 + int(env.get("SLURM_JOB_ID", 0)) % 20000)),
        attempt=int(env.get("SLURM_RESTART_COUNT", 0)),
        hosts=hosts,
    )


def expand_hosts(nodelist: str) -> tuple[str, ...]:
    """All names of SLURM's compressed lists: ``gpu[003-004,9],big1`` is ``gpu003, gpu004, gpu9, big1``."""
    names: list[str] = []
    for word in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", nodelist):
        pieces = [_numbers(piece) for piece in re.split(r"(\[[^\]]*\])", word)]
        names += ["".join(parts) for parts in itertools.product(*pieces)]
    return tuple(names)


def _numbers(piece: str) -> list[str]:
    if not piece.startswith("["):
        return [piece]
    found: list[str] = []
    for part in piece[1:-1].split(","):
        first, _, last = part.partition("-")
        found += [f"{number:0{len(first)}d}" for number in range(int(first), int(last or first) + 1)]
    return found
