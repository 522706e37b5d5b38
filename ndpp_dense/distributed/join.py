"""Joining the processes of a run, with a first exchange that proves the links and says who is there."""

from __future__ import annotations

import datetime
import json
import os
import socket
import time
from collections import defaultdict
from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from ndpp_dense.distributed.place import Place

__all__ = ["join"]

_SHOWN = 8  # ranks named one by one in a message
_ABSENT = "absent"
_PATIENCE = datetime.timedelta(seconds=10)  # for the others to read who is missing


def join(place: Place, backend: str, timeout: float) -> tuple[list[dict[str, Any]], Store]:
    """Makes the default process group and adds up one number over all ranks.

    Args:
        place: Where this process stands.
        backend: ``"nccl"`` or ``"gloo"``.
        timeout: Minutes until a process that waits for others gives up, here and in every later exchange.

    Returns:
        What every rank said about itself, in order: ``node``, ``host``, ``address`` (on the way to the meeting point),
        ``interface``, ``device``, ``pid``, ``seconds`` (of the second exchange, which no longer makes connections). And
        the store through which they met.

    Raises:
        ConnectionError: The processes did not find each other; names the ranks and machines that did not answer.
    """
    limit = datetime.timedelta(minutes=timeout)
    own = _describe(place, backend)
    here = (
        f"rank {place.rank} of {place.world_size} on {own['host']}, meeting at {place.host}:{place.port}, {backend}, "
        f"interface {own['interface']}"
    )
    try:
        store = _meet(place, limit)
        store.set(f"here/{place.rank}", json.dumps(own))
        _wait_for_all(store, place, limit)
        dist.init_process_group(
            backend, store=PrefixStore("group", store), rank=place.rank, world_size=place.world_size, timeout=limit
        )
        own["seconds"] = _exchange(place, backend)
        everyone: list[Any] = [None] * place.world_size
        dist.all_gather_object(everyone, own)
    except (RuntimeError, OSError, ValueError) as error:
        raise ConnectionError(
            f"the processes of this run did not find each other ({here}): {error}. Check that all of them were "
            "started, that the machine where they meet is reachable at this address and port, and the network "
            "interface (NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME)."
        ) from error
    return everyone, store


def _meet(place: Place, limit: datetime.timedelta) -> Store:
    """The common memory of the processes; each attempt has a part of its own."""
    server = place.rank == 0 and not place.served
    store = TCPStore(place.host, place.port, place.world_size, is_master=server, timeout=limit, wait_for_workers=False)
    return PrefixStore(f"ndpp/{place.attempt}", store)


def _wait_for_all(store: Store, place: Place, limit: datetime.timedelta) -> None:
    """Waits for every rank. The first whose patience ends marks those that are missing, and all end together."""
    keys = [f"here/{rank}" for rank in range(place.world_size)]
    try:
        store.wait(keys, limit)
    except (RuntimeError, dist.DistError):
        for key in keys:
            store.compare_set(key, "", _ABSENT)
    told = {rank: store.get(key).decode() for rank, key in enumerate(keys)}
    there = {rank: json.loads(text) for rank, text in told.items() if text != _ABSENT}
    if len(there) == place.world_size:
        return
    store.set(f"read/{place.rank}", "")
    if place.rank == 0:  # which keeps the store
        with suppress(RuntimeError, dist.DistError):
            store.wait([f"read/{rank}" for rank in there], _PATIENCE)
    raise ConnectionError(_absent(place, there, limit))


def _absent(place: Place, there: dict[int, dict[str, Any]], limit: datetime.timedelta) -> str:
    """Says who did not answer, by machine as far as its name is known."""
    missing = [rank for rank in range(place.world_size) if rank not in there]
    shown = ", ".join(map(str, missing[:_SHOWN])) + (", ..." if len(missing) > _SHOWN else "")
    answered = "; ".join(
        f"{host} (ranks {', '.join(map(str, ranks[:_SHOWN]))}{', ...' if len(ranks) > _SHOWN else ''})"
        for host, ranks in _by_host(there).items()
    )
    silent = [host for node, host in enumerate(place.hosts) if node not in {said["node"] for said in there.values()}]
    names = f" Not a word from {', '.join(silent)}." if silent else ""
    return (
        f"after {limit.total_seconds():.0f} s there is no answer from {len(missing)} of {place.world_size} ranks: "
        f"{shown}.{names} Those that answered: {answered}"
    )


def _by_host(there: dict[int, dict[str, Any]]) -> dict[str, list[int]]:
    found: defaultdict[str, list[int]] = defaultdict(list)
    for rank, said in there.items():
        found[f"{said['host']}, {said['address']}"].append(rank)
    return found


def _exchange(place: Place, backend: str) -> float:
    """Adds up the ranks, twice: the first time connections are made. Returns the seconds of the second time."""
    device = torch.device("cuda", torch.cuda.current_device()) if backend == "nccl" else torch.device("cpu")
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        total = torch.tensor(float(place.rank), dtype=torch.float64, device=device)
        dist.all_reduce(total)
        found, wanted = total.item(), place.world_size * (place.world_size - 1) / 2
        seconds = time.perf_counter() - start
        if found != wanted:
            raise RuntimeError(f"the sum of all ranks is {found:g} instead of {wanted:g}: the links corrupt data")
    return seconds


def _describe(place: Place, backend: str) -> dict[str, Any]:
    interface = os.environ.get("NCCL_SOCKET_IFNAME" if backend == "nccl" else "GLOO_SOCKET_IFNAME", "chosen by itself")
    device = torch.cuda.get_device_name(torch.cuda.current_device()) if backend == "nccl" else "cpu"
    known = {"host": socket.gethostname(), "address": _own_address(place.host), "interface": interface}
    return {"node": place.node, **known, "device": device, "pid": os.getpid()}


def _own_address(target: str) -> str:
    """This machine's address on the way to another; connecting a datagram socket sends nothing."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(target, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return "no route"
