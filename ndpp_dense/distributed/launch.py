"""Start one process or many: torchrun, SLURM, spawned processes, or just this one."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import torch
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from ndpp_dense.distributed.failure import sharing_failures
from ndpp_dense.distributed.join import join
from ndpp_dense.distributed.leave import leave
from ndpp_dense.distributed.patience import waiting_for_loaders
from ndpp_dense.distributed.place import Place, find_place
from ndpp_dense.distributed.stopping import INTERRUPTED, SIGNALS, StoppedEarly, is_new_press, watching_for_stop

__all__ = ["LaunchOptions", "launch"]

_LONGEST = 525600.0  # minutes; a longer wait is a slip, and torch cannot count it
GRACE = 20.0  # seconds that spawned processes have to end by themselves once one has failed


@dataclass(frozen=True)
class LaunchOptions:
    """How to start a run when no launcher (torchrun, srun) has started the processes already.

    Args:
        num_gpus: Processes on this machine; on CPU the same number of processes without GPUs.
        num_machines: Machines that take part.
        machine_rank: Number of this machine, from 0 to ``num_machines - 1``.
        dist_url: Where the processes meet: ``tcp://HOST:PORT`` of machine 0, or ``auto`` on one machine.
        device: ``cuda`` (processes talk through NCCL) or ``cpu`` (through gloo).
        timeout: Minutes until a process that waits for the others gives up.
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
            ValueError: Any option is out of range, or two contradict one another.
        """
        faults = []
        if self.num_gpus < 1 or self.num_machines < 1:
            faults.append(f"--num-gpus {self.num_gpus} and --num-machines {self.num_machines} must be 1 or more")
        if not 0 <= self.machine_rank < max(self.num_machines, 1):
            faults.append(f"--machine-rank {self.machine_rank} must be in 0..{self.num_machines - 1}")
        if self.num_machines > 1 and self.dist_url == "auto":
            faults.append("several machines need --dist-url tcp://HOST:PORT with the address of machine 0")
        if self.dist_url != "auto" and _address(self.dist_url) is None:
            faults.append(f"--dist-url {self.dist_url} must be auto or tcp://HOST:PORT")
        if not 0 < self.timeout < _LONGEST:
            faults.append(f"--timeout {self.timeout} must be a positive number of minutes, at most a year's")
        if faults:
            raise ValueError("cannot launch: " + "; ".join(faults) + ".")


def launch(
    main: Callable[..., Any],
    options: LaunchOptions,
    args: tuple = (),
    *,
    joined: Callable[[list[int], int], None] | None = None,
    left: Callable[[], None] | None = None,
    say: Callable[[str], None] | None = None,
    guard: Callable[[], AbstractContextManager] = nullcontext,
) -> Any:
    """Run ``main(*args)`` in every process of the run, joined in one process group.

    Processes that torchrun or srun started join each other through the environment variables these tools set;
    otherwise ``options`` says how many processes to spawn here. With one process there is no process group. What is
    passed on to spawned processes must be importable by name.

    Args:
        main: The function to run.
        options: How to launch.
        args: Positional arguments of ``main``.
        joined: Called in every process once the group stands, with the number of each rank's machine and its own.
        left: Called in every process before the group goes, to let go of what ``joined`` made.
        say: Called on rank 0 with what the first exchange found: backend, interfaces, machines.
        guard: Context in which spawned processes run, for their errors; that of the caller does not reach there.

    Returns:
        What ``main`` returned in this process; None where processes were spawned.

    Raises:
        ValueError: More GPUs are asked for than there are.
        ConnectionError: The processes do not find each other within the timeout.
        OtherRankError: Another rank failed; the message is its own.
        SystemExit: With the exit code of the first spawned process that ended by ``sys.exit``.
    """
    place = find_place()
    if place is not None:
        return _run(place, main, options, args, joined, left, say)
    _check_gpus(options.num_gpus, options.device)
    if options.num_gpus * options.num_machines == 1:
        with watching_for_stop(), waiting_for_loaders(options.timeout):
            return main(*args)
    address = _address(options.dist_url) or ("127.0.0.1", _free_port())
    try:
        _spawn(options.num_gpus, (guard, address, main, options, args, joined, left, say))
    except ProcessExitedException as error:
        # A process that called sys.exit has said why; anything else (a signal) still needs the traceback.
        if error.signal_name is None:
            sys.exit(error.exit_code)
        if error.signal_name == "SIGINT":
            sys.exit(INTERRUPTED)
        raise
    return None


def _spawn(count: int, args: tuple) -> None:
    """Starts processes, passes signals on to them, and waits for their end."""
    context = start_processes(_spawned, args, nprocs=count, join=False, start_method="spawn")
    if context is None:  # only where torch has joined them itself
        return
    pids = context.pids()
    pressed = 0

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if number == signal.SIGINT and is_new_press():
            pressed += 1
        for pid in pids:
            with suppress(ProcessLookupError):
                # One that waits for another in an exchange would not hear the second Ctrl-C.
                os.kill(pid, signal.SIGKILL if pressed > 1 else number)
        if pressed > 1:
            sys.exit(INTERRUPTED)

    before = {number: signal.signal(number, pass_on) for number in (*SIGNALS, signal.SIGINT)}
    try:
        # The others need a moment to learn what happened, and to say it.
        while not context.join(grace_period=GRACE):
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _spawned(
    local_rank: int, guard: Callable, address: tuple[str, int], main: Callable, options: LaunchOptions, *rest: Any
) -> None:
    if options.device == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // options.num_gpus))
    rank = options.machine_rank * options.num_gpus + local_rank
    world_size = options.num_gpus * options.num_machines
    # Where frameworks and messages look for them.
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(local_rank))
    with guard():
        _run(Place(rank, world_size, local_rank, options.machine_rank, *address), main, options, *rest)


def _run(place: Place, main: Callable, options: LaunchOptions, args: tuple, joined: Any, left: Any, say: Any) -> Any:
    os.environ.setdefault("LOCAL_RANK", str(place.local_rank))
    cuda = torch.device(options.device).type == "cuda"
    if cuda:
        # A launcher may show each process its own GPU only.
        index = 0 if torch.cuda.device_count() == 1 else place.local_rank
        _check_gpus(index + 1, options.device)
        torch.cuda.set_device(index)
    if place.world_size == 1:
        with watching_for_stop(), waiting_for_loaders(options.timeout):
            return main(*args)
    backend = "nccl" if cuda else "gloo"
    everyone, store = join(place, backend, options.timeout)
    if say is not None and place.rank == 0:
        say(_report(backend, options.timeout, everyone))
    if joined is not None:
        joined([said["node"] for said in everyone], place.node)
    try:
        serves = place.rank == 0 and not place.served
        shared = sharing_failures(store, place.rank, place.world_size, serves)
        with watching_for_stop(), shared, waiting_for_loaders(options.timeout):
            result = main(*args)
    except StoppedEarly:  # all ranks together
        leave(left)
        raise
    # Only after success: where one process failed, waiting here for the others would hide its error.
    leave(left)
    return result


def _report(backend: str, timeout: float, everyone: list[dict[str, Any]]) -> str:
    """Backend and world size, then a line a machine."""
    slowest = 1000 * max(said["seconds"] for said in everyone)
    lines = [
        f"{len(everyone)} processes on {len({said['node'] for said in everyone})} machine(s) through {backend}, "
        f"timeout {timeout:g} min, first exchange {slowest:.1f} ms"
    ]
    for node in sorted({said["node"] for said in everyone}):
        ranks = [rank for rank, said in enumerate(everyone) if said["node"] == node]
        first = everyone[ranks[0]]
        lines.append(
            f"  machine {node}: {first['host']}, {first['address']}, interface {first['interface']}, "
            f"ranks {ranks[0]}-{ranks[-1]}, {first['device']}"
        )
    return "\n".join(lines)


def _address(url: str) -> tuple[str, int] | None:
    try:
        parts = urlsplit(url)
        return (parts.hostname, parts.port) if parts.scheme == "tcp" and parts.hostname and parts.port else None
    except ValueError:  # a port that is none
        return None


def _check_gpus(needed: int, device: str) -> None:
    if torch.device(device).type != "cuda":
        return
    found = torch.cuda.device_count()
    if found < needed:
        raise ValueError(
            f"{needed} GPU(s) needed on {socket.gethostname()}, {found} found. "
            f"{f'Ask for at most {found} with --num-gpus, or run' if found else 'Run'} without GPUs by --device cpu."
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
