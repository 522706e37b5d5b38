"""Training steps of a small network in one of several processes: their time, their exchanges, and the waiting."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd import Variable
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile, record_function

from ndpp_dense import WhiteningConfig, convert_to_ndpp, create_backbone
from ndpp_dense.distributed.leave import leave
from ndpp_dense.distributed.parallel import data_parallel
from ndpp_dense.distributed.plan import work_of

__all__ = ["measure"]

_STEP, _STATISTICS, _GRADIENTS = "plan: step", "plan: wait for statistics", "plan: wait for gradients"


def measure(rank: int, world: int, init: str, repeats: int, schedule: str) -> dict[str, Any]:
    """Trains a few steps and times sums of two sizes.

    Args:
        rank: This process.
        world: How many there are.
        init: File through which they meet.
        repeats: Steps, and sums of each size.
        schedule: Of the layers.

    Returns:
        ``step``, ``cpu``, ``small`` and ``large`` (median seconds; ``cpu`` is the process's time of a step),
        ``gradients`` and ``moments`` (bytes by the model), ``bytes`` that were summed in a step and ``sums`` of
        statistics, ``wait_statistics`` and ``wait_gradients`` (shares of the steps, by the profiler).
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{init}", rank=rank, world_size=world)
    network = create_backbone("resnet18", 10)
    convert_to_ndpp(network, WhiteningConfig.fast("imagenet").override({"schedule": schedule}))
    work = work_of(network, 1.0)
    model = data_parallel(network, torch.device("cpu")) if world > 1 else network
    images = torch.randn(2, 3, 64, 64)

    def step() -> None:
        model(images).square().mean().backward()

    with _Exchanges(model) as seen:
        step()  # the first is one of "fresh"
        seen.clear()
        step()
        found: dict[str, float] = {"bytes": sum(seen.statistics) + sum(seen.gradients), "sums": len(seen.statistics)}
        shares = _waiting(step, repeats)
        found["step"], found["cpu"] = _median(step, repeats), _median(step, repeats, time.process_time)
    for name, size in (("small", 1), ("large", work.gradient_bytes // 4)):
        message = torch.zeros(size)
        found[name] = _median(lambda message=message: dist.all_reduce(message), repeats) if world > 1 else 0.0
    if world > 1:
        leave()
    return {**found, **shares, "gradients": work.gradient_bytes, "moments": list(work.moment_bytes)}


def _median(run: Callable[[], Any], repeats: int, clock: Callable[[], float] = time.perf_counter) -> float:
    taken = []
    for _ in range(repeats):
        start = clock()
        run()
        taken.append(clock() - start)
    return statistics.median(taken)


def _waiting(step: Callable[[], None], repeats: int) -> dict[str, float]:
    """Shares of some steps that were spent waiting for exchanges."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(repeats):
            with record_function(_STEP):
                step()
    spent = {event.key: event.cpu_time_total for event in profiler.key_averages()}
    return {
        "wait_statistics": spent.get(_STATISTICS, 0.0) / spent[_STEP],
        "wait_gradients": spent.get(_GRADIENTS, 0.0) / spent[_STEP],
    }


class _Exchanges:
    """Bytes of every sum over ranks while it is entered, and marks for the profiler around the waiting for them."""

    def __init__(self, model: nn.Module) -> None:
        self._model: Any = model
        self._all_reduce = dist.all_reduce
        self._futures: list[torch.futures.Future] = []
        self.statistics: list[int] = []
        self.gradients: list[int] = []

    def clear(self) -> None:
        """Forgets what was seen."""
        self.statistics.clear()
        self.gradients.clear()

    def __enter__(self) -> _Exchanges:
        dist.all_reduce = self._sum
        if isinstance(self._model, DistributedDataParallel):
            # Not the method itself: torch compares annotations, which are strings here.
            self._model.register_comm_hook(None, lambda state, bucket: self._sum_bucket(bucket))
        return self

    def __exit__(self, *error: object) -> None:
        dist.all_reduce = self._all_reduce

    def _sum(self, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.statistics.append(tensor.numel() * tensor.element_size())
        if kwargs.get("async_op"):
            return _Awaited(self._all_reduce(tensor, *args, **kwargs))
        with record_function(_STATISTICS):
            return self._all_reduce(tensor, *args, **kwargs)

    def _sum_bucket(self, bucket: Any) -> torch.futures.Future[torch.Tensor]:
        self.gradients.append(bucket.buffer().numel() * bucket.buffer().element_size())
        if not self._futures:  # runs after the backward pass, before DistributedDataParallel itself waits
            Variable._execution_engine.queue_callback(self._wait_for_gradients)
        dist.all_reduce, marked = self._all_reduce, dist.all_reduce
        future = allreduce_hook(self._model.process_group, bucket)
        dist.all_reduce = marked
        self._futures.append(future)
        return future

    def _wait_for_gradients(self) -> None:
        with record_function(_GRADIENTS):
            for future in self._futures:
                future.wait()
        self._futures = []


class _Awaited:
    """A sum under way whose waiting the profiler sees."""

    def __init__(self, work: Any) -> None:
        self._work = work

    def wait(self) -> Any:
        """Waits."""
        with record_function(_STATISTICS):
            return self._work.wait()
