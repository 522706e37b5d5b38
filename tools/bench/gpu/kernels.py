"""What a training step with ND++ launches: kernels by name and part, and the host's time beside the device's."""

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from bench.case import Settings, Step
from bench.profile import PARTS, wrapped_parts

MARK = "part: "
REST = "rest"
BACKWARD = "autograd::engine::evaluate_function"
WAITS = ("cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaEventSynchronize")
STEPS, LISTED, NAME = 5, 10, 100
Leaf = tuple[str, float, Any]  # name, microseconds, and the event that it was launched in


def kernels_of(step: Step, settings: Settings) -> dict[str, Any]:
    """Looks at one step, after some that warm up.

    On a CPU, which has no kernels, operations stand for them.

    Returns:
        Medians of the seconds until the host has launched a step and until the step is done; number of kernels, of
        copies and of calls that wait for the device; seconds of all kernels; shares of these by part; and the kernels
        that take the longest and that are launched most often, as ``[name, number, seconds]``.
    """
    cuda = settings.device == "cuda"
    for _ in range(0 if settings.rehearse else 3):
        step()
    times = [_host_and_whole(step, cuda) for _ in range(1 if settings.rehearse else STEPS)]
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with wrapped_parts(_marked), profile(activities=activities) as found:
        step()
        _wait(cuda)
    events = list(found.events() or ())
    leaves = [leaf for event in events for leaf in (launched(event) if cuda else operations(event))]
    host, whole = (statistics.median(column) for column in zip(*times, strict=True))
    return {"host_s": host, "step_s": whole, **summary(events, leaves), "are": "kernels" if cuda else "operations"}


def _host_and_whole(step: Step, cuda: bool) -> tuple[float, float]:
    _wait(cuda)
    start = time.perf_counter()
    step()
    launched = time.perf_counter() - start
    _wait(cuda)
    return launched, time.perf_counter() - start


def _wait(cuda: bool) -> None:
    if cuda:
        torch.cuda.synchronize()


def _marked(call: Callable[..., Any], part: str) -> Callable[..., Any]:
    def runs(*args: Any, **kwargs: Any) -> Any:
        with record_function(MARK + part):
            return partial(call, *args, **kwargs)()

    return runs


def launched(event: Any) -> Iterator[Leaf]:
    """The kernels that an event of the host launched itself."""
    for kernel in event.kernels:
        if not kernel.name.startswith(MARK):  # the profiler shows our marks on the device too
            yield kernel.name, kernel.duration, event


def operations(event: Any) -> Iterator[Leaf]:
    """The event itself, if it is an operation that takes time of its own."""
    if event.name.startswith("aten::") and event.self_cpu_time_total > 0:
        yield event.name, event.self_cpu_time_total, event


def summary(events: Iterable[Any], leaves: list[Leaf]) -> dict[str, Any]:
    """Numbers, sums and shares of what was launched; see `kernels_of`."""
    kernels = [leaf for leaf in leaves if not leaf[0].startswith(("Memcpy", "Memset"))]
    parts = _parts(events)
    number: Counter[str] = Counter()
    seconds: defaultdict[str, float] = defaultdict(float)
    shares: defaultdict[str, float] = defaultdict(float, dict.fromkeys([*PARTS, REST], 0.0))
    for name, microseconds, event in kernels:
        number[name] += 1
        seconds[name] += microseconds / 1e6
        shares[_part(event, parts)] += microseconds / 1e6
    total = sum(seconds.values())
    rows = {name: [name[:NAME], number[name], seconds[name]] for name in number}
    return {
        "kernels": sum(number.values()),
        "copies": len(leaves) - len(kernels),
        "waits": sum(event.name in WAITS for event in events),
        "kernels_s": total,
        "shares": {part: spent / total if total else None for part, spent in shares.items()},
        "longest": [rows[name] for name in sorted(seconds, key=seconds.__getitem__, reverse=True)[:LISTED]],
        "most_frequent": [rows[name] for name, _ in number.most_common(LISTED)],
    }


def _parts(events: Iterable[Any]) -> dict[int, str]:
    """Part of the forward operation by its number in the order of the graph, which its backward has too.

    An operation that makes no node has the number of the next that does: the last one of a number is the one.
    """
    forward = (event for event in events if event.sequence_nr >= 0 and not _ancestor(event, BACKWARD))
    return {event.sequence_nr: _mark(event) for event in sorted(forward, key=lambda event: event.time_range.start)}


def _part(event: Any, parts: dict[int, str]) -> str:
    mark = _mark(event)
    if mark != REST:
        return mark
    node = _ancestor(event, BACKWARD)
    return parts.get(node.sequence_nr, REST) if node is not None else REST


def _mark(event: Any) -> str:
    marked = _ancestor(event, MARK)
    return REST if marked is None else marked.name[len(MARK) :]


def _ancestor(event: Any, prefix: str) -> Any:
    """The event itself or the nearest one around it whose name begins so."""
    while event is not None and not event.name.startswith(prefix):
        event = event.cpu_parent
    return event
