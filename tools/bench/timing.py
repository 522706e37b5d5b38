"""How peers are measured: in one process, round by round in rotating order, as ratios to the first of them.

Whatever else the machine does slows the peers of one round alike, so the ratio of two values of the same round says
more than their seconds. Warm-up rounds are dropped; what is kept is summed up by median and quartiles.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from bench.case import Measure, Settings, Step

LEAST_ROUNDS = 3


def seconds(step: Step) -> float:
    """Wall time of a step on the CPU."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def cuda_seconds(step: Step) -> float:
    """Time of a step on the GPU, between events; what was queued before is waited for."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def timer(settings: Settings) -> Measure:
    """The clock of a device."""
    return cuda_seconds if settings.device == "cuda" else seconds


def needs_gpu() -> None:
    """Says that a CUDA graph cannot be had here.

    Raises:
        NotImplementedError: There is no GPU.
    """
    if not torch.cuda.is_available():
        raise NotImplementedError("no CUDA graph: torch sees no GPU")


def graphed(step: Step, pool: Any = None) -> Step:
    """Captures a step as a CUDA graph; what is returned replays it.

    Args:
        step: Leaves nothing behind that the next replay of another graph may not write over.
        pool: Of memory, to share with other graphs that are not replayed at the same time.

    Raises:
        NotImplementedError: There is no GPU, or the step waits for it or copies from the host and cannot be captured.
    """
    needs_gpu()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # capture wants lazily made state to be there, and no work on the default stream
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        # Threads that watch over collectives ask the device for its state meanwhile.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            step()
    except RuntimeError as error:
        raise NotImplementedError(f"no CUDA graph: {error}") from error
    return graph.replay


def interleave(
    steps: Mapping[str, Step],
    measure: Measure,
    rounds: int,
    warmup: int,
    budget: float,
    tick: Callable[[str], object] = lambda label: None,
) -> dict[str, list[float]]:
    """Measures all steps once a round, each round beginning with the next of them.

    Args:
        steps: By label.
        measure: Maps a step to its value.
        rounds: To keep, at most.
        warmup: Rounds to drop first.
        budget: Seconds; no round is begun that would go beyond, once three are kept.
        tick: Called with the label after every step.
    """
    labels, values = list(steps), {label: [] for label in steps}
    start = time.monotonic()
    for number in range(warmup + rounds):
        spent = time.monotonic() - start
        if number - warmup >= LEAST_ROUNDS and spent + spent / number > budget:
            break
        first = number % len(labels)
        for label in labels[first:] + labels[:first]:
            value = measure(steps[label])
            if number >= warmup:
                values[label].append(value)
            tick(label)
    return values


def summarise(values: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Medians and quartiles of the values, and of their ratios to the first label's value of the same round."""
    baseline = next(iter(values.values()))
    summary = {}
    for label, own in values.items():
        ratios = [value / base for value, base in zip(own, baseline, strict=True)]
        summary[label] = {
            "values": list(own),
            "median": statistics.median(own),
            "quartiles": _quartiles(own),
            "ratio": statistics.median(ratios),
            "ratio_quartiles": _quartiles(ratios),
        }
    return summary


def _quartiles(values: Sequence[float]) -> list[float]:
    if len(values) < 2:
        return [values[0], values[0]]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [low, high]
