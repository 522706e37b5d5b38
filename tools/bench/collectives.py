"""What ranks exchange: megabytes and number of collectives of a training step, counted where they are called."""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn

from bench.case import Case, Settings, Step, training_step
from ndpp_dense.distributed.leave import leave

CALLS = (
    "all_reduce",
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_single",
    "reduce_scatter_tensor",
    "broadcast",
)
PEERS = ("SyncBN", "ND++ fast", "ND++ fast, stale", "ND++ paper")
Traffic = dict[str, dict[str, float]]


@contextlib.contextmanager
def counted() -> Iterator[dict[str, float]]:
    """Counts the collectives that Python calls, and the megabytes that a rank puts into them."""
    seen = {"MB": 0.0, "collectives": 0.0}

    def counting(call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counts(*args: Any, **kwargs: Any) -> Any:
            put_in = args[1] if "gather" in name or "scatter" in name else args[0]
            seen["MB"] += put_in.numel() * put_in.element_size() / 1e6
            seen["collectives"] += 1
            return call(*args, **kwargs)

        return counts

    with contextlib.ExitStack() as patches:
        for name in filter(partial(hasattr, dist), CALLS):
            patches.enter_context(mock.patch.object(dist, name, counting(getattr(dist, name), name)))
        yield seen


def collective_cases(settings: Settings) -> list[Case]:
    """Two tables from one run: megabytes, and number of collectives, by norm."""
    batch, size = (2, 96) if settings.quick else (8, 224)

    def build(method: str, what: str) -> Step:
        return lambda: traffic(settings, batch, size)[method][what]

    return [
        Case(
            f"{what}, batch {batch} a rank, {size} px",
            {name: partial(build, name, what) for name in PEERS},
            unit=what,
            measure=lambda step: float(step()),  # pyright: ignore[reportArgumentType]
            exact=True,
        )
        for what in ("MB", "collectives")
    ]


@lru_cache(maxsize=4)
def traffic(settings: Settings, batch: int, size: int) -> Traffic:
    """Counts the second step of every peer on all GPUs through NCCL, or on two CPU processes through gloo."""
    gpus = torch.cuda.device_count() if settings.device == "cuda" else 0
    with tempfile.TemporaryDirectory() as folder:
        world = max(2, gpus)
        arguments = (world, folder, settings, batch, size, gpus > 1)
        torch.multiprocessing.spawn(_rank, arguments, nprocs=world)  # type: ignore[attr-defined]
        return json.loads((Path(folder) / "traffic.json").read_text())


def _rank(rank: int, world: int, folder: str, settings: Settings, batch: int, size: int, nccl: bool) -> None:
    from bench.peers import SummedBatchNorm2d, replace_norms
    from bench.suites import METHODS
    from ndpp_dense import create_backbone

    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(settings.threads)
    device = torch.device("cuda", rank) if nccl else torch.device("cpu")
    if nccl:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if nccl else "gloo", f"file://{folder}/store", rank=rank, world_size=world)
    found: Traffic = {}
    for name in PEERS:
        torch.manual_seed(0)
        model: nn.Module = create_backbone("resnet50")
        summed = name == "SyncBN" and not nccl  # torch's own refuses CPUs
        model = replace_norms(model, SummedBatchNorm2d) if summed else METHODS[name](model)
        step = training_step(model.to(device), torch.randn(batch, 3, size, size, device=device), settings)
        step()  # the first may differ
        with counted() as seen:
            step()
        found[name] = seen
    if rank == 0:
        (Path(folder) / "traffic.json").write_text(json.dumps(found))
    leave()
