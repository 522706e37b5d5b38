"""Start one process or many: torchrun, SLURM, spawned processes, or just this one."""

from __future__ import annotations

import datetime
import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

__all__ = ["LaunchOptions", "launch"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LaunchOptions:
    """How to start a run when no launcher (torchrun, srun) has started the processes already.

    Args:
        num_gpus: processes on this machine; on CPU the same number of processes without GPUs.
        num_machines: machines that take part.
        machine_rank: number of this machine, from 0 to ``num_machines - 1``.
        dist_url: where the processes meet: ``tcp://HOST:PORT`` of machine 0, or ``auto`` on one machine.
        device: ``cuda`` (processes talk through NCCL) or ``cpu`` (through gloo).
        timeout: minutes until a process that waits for the others gives up.
    """

    num_gpus: int = 1
    num_machines: int = 1
    machine_rank: int = 0
    dist_url: str = "auto"
    device: str = "cuda"
    timeout: float = 30.0

    def __post_init__(self) -> None:
        """Report every fault at once.

        Raises:
            ValueError: if any option is out of range or two contradict one another.
        """
        faults = []
        if self.num_gpus < 1 or self.num_machines < 1:
            faults.append(f"--num-gpus {self.num_gpus} and --num-machines {self.num_machines} must be 1 or more")
        if not 0 <= self.machine_rank < max(self.num_machines, 1):
            faults.append(f"--machine-rank {self.machine_rank} must be in 0..{self.num_machines - 1}")
        if self.num_machines > 1 and self.dist_url == "auto":
            faults.append("several machines need --dist-url tcp://HOST:PORT with the address of machine 0")
        if self.timeout <= 0:
            faults.append(f"--timeout {self.timeout} must be a positive number of minutes")
        if faults:
            raise ValueError("cannot launch: " + "; ".join(faults) + ".")


@dataclass(frozen=True)
class _Place:
    """Where one process stands in the run."""

    rank: int
    world_size: int
    local_rank: int
    node: int
    url: str


def launch(main: Callable[..., Any], options: LaunchOptions, args: tuple = ()) -> Any:
    """Run ``main(*args)`` in every process of the run, joined in one process group.

    Processes that torchrun or srun started join each other through the environment variables these tools set;
    otherwise ``options`` says how many processes to spawn here. With one process there is no process group.

    Args:
        main: the function to run; importable by name when processes are spawned.
        options: how to launch.
        args: positional arguments of ``main``.

    Returns:
        What ``main`` returned in this process; None where processes were spawned.

    Raises:
        ValueError: if more GPUs are asked for than there are.
        ConnectionError: if the processes do not find each other within the timeout.
        SystemExit: with the exit code of the first spawned process that ended by ``sys.exit``.
    """
    place = _torchrun_place(os.environ) or _slurm_place(os.environ)
    if place is not None:
        return _run(place, main, options, args)
    world_size = options.num_gpus * options.num_machines
    _check_gpus(options.num_gpus, options.device)
    if world_size == 1:
        return main(*args)
    url = f"tcp://127.0.0.1:{_free_port()}" if options.dist_url == "auto" else options.dist_url
    try:
        start_processes(_spawned, (url, main, options, args), nprocs=options.num_gpus, start_method="spawn")
    except ProcessExitedException as error:
        # A process that called sys.exit has said why; anything else (a signal) still needs the traceback.
        if error.signal_name is None:
            sys.exit(error.exit_code)
        raise
    return None


def _spawned(local_rank: int, url: str, main: Callable, options: LaunchOptions, args: tuple) -> None:
    if options.device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // options.num_gpus))
    rank = options.machine_rank * options.num_gpus + local_rank
    world_size = options.num_gpus * options.num_machines
    _run(_Place(rank, world_size, local_rank, options.machine_rank, url), main, options, args)


def _run(place: _Place, main: Callable, options: LaunchOptions, args: tuple) -> Any:
    cuda = torch.device(options.device).type == "cuda"
    if cuda:
        # A launcher may show each process its own GPU only.
        index = 0 if torch.cuda.device_count() == 1 else place.local_rank
        _check_gpus(index + 1, options.device)
        torch.cuda.set_device(index)
    if place.world_size == 1:
        return main(*args)
    _join(place, "nccl" if cuda else "gloo", options.timeout)
    result = main(*args)
    # Only after success: where one process failed, waiting here for the others would hide its error.
    dist.destroy_process_group()
    comm._LOCAL_PROCESS_GROUP = None
    return result


def _join(place: _Place, backend: str, timeout: float) -> None:
    interface = os.environ.get("NCCL_SOCKET_IFNAME" if backend == "nccl" else "GLOO_SOCKET_IFNAME", "chosen by itself")
    where = f"rank {place.rank} of {place.world_size} on {socket.gethostname()}, {place.url}, {backend}, {interface=}"
    _log.info("joining: %s", where)
    try:
        dist.init_process_group(
            backend,
            init_method=place.url,
            world_size=place.world_size,
            rank=place.rank,
            timeout=datetime.timedelta(minutes=timeout),
        )
        nodes: list[Any] = [None] * place.world_size
        dist.all_gather_object(nodes, place.node)
    except (RuntimeError, OSError, ValueError) as error:
        raise ConnectionError(
            f"the processes of this run did not find each other ({where}): {error}. Check that all of them were "
            "started, that machine 0 is reachable at this address and port, and the network interface "
            "(NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME)."
        ) from error
    # Detectron2 asks for the ranks on the same machine; every rank must take part in making every group.
    for node in sorted(set(nodes)):
        group = dist.new_group([rank for rank, other in enumerate(nodes) if other == node])
        if node == place.node:
            comm._LOCAL_PROCESS_GROUP = group


def _torchrun_place(env: Mapping[str, str]) -> _Place | None:
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} <= env.keys():
        return None
    node = int(env.get("GROUP_RANK", int(env["RANK"]) // int(env.get("LOCAL_WORLD_SIZE", 1))))
    return _Place(int(env["RANK"]), int(env["WORLD_SIZE"]), int(env["LOCAL_RANK"]), node, "env://")


def _slurm_place(env: Mapping[str, str]) -> _Place | None:
    """Read the variables of an srun step of several tasks; an sbatch script without srun has no step."""
    if not {"SLURM_STEP_ID", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS"} <= env.keys():
        return None
    world_size = int(env.get("SLURM_STEP_NUM_TASKS", env["SLURM_NTASKS"]))
    if world_size < 2:
        return None
    nodes = env.get("SLURM_STEP_NODELIST", env.get("SLURM_NODELIST", "127.0.0.1"))
    host = env.get("MASTER_ADDR", _first_host(nodes))
    # All tasks must choose the same port and jobs that share a machine different ones.
    port = env.get("MASTER_PORT", str(20000 + int(env.get("SLURM_JOB_ID", 0)) % 20000))
    node = int(env.get("SLURM_NODEID", 0))
    return _Place(int(env["SLURM_PROCID"]), world_size, int(env["SLURM_LOCALID"]), node, f"tcp://{host}:{port}")


def _first_host(nodelist: str) -> str:
    """Expand the first name of SLURM's compressed lists: ``gpu[003-005,9],big1`` is ``gpu003``."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodelist)
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first.group() if first else nodelist)


def _check_gpus(needed: int, device: str) -> None:
    if torch.device(device).type != "cuda":
        return
    found = torch.cuda.device_count()
    if found < needed:
        raise ValueError(
            f"{needed} GPU(s) needed on {socket.gethostname()}, {found} found. "
            f"Ask for at most {found} with --num-gpus, or run without GPUs by --device cpu."
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
