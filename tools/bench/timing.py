"""How peers are measured: in one process, round by round in rotating order, as ratios to the first of them.

Whatever else the machine does slows the peers of one round alike, so the ratio of two values of the same round says
more than their seconds. Warm-up rounds are dropped; what is kept is summed up by median and quartiles.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.case import Case, Measure, Settings, Step

LEAST_ROUNDS = 3
# What a peer may lack on a machine without the comparison being at fault.
UNAVAILABLE = (ImportError, NotImplementedError, torch.OutOfMemoryError)


@dataclass
class Outcome:
    """What was measured.

    Attributes:
        values: By label, one a round.
        skipped: Why the other labels have none.
    """

    values: dict[str, list[float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


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


def graphed(step: Step) -> Step:
    """Captures a step as a CUDA graph; what is returned replays it.

    Raises:
        NotImplementedError: The step waits for the device, or copies from the host, and cannot be captured.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # capture wants lazily made state to be there, and no work on the default stream
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            step()
    except RuntimeError as error:
        raise NotImplementedError(f"no CUDA graph: {error}") from error
    return graph.replay


def measure_case(case: Case, settings: Settings, measure: Measure, tick: Callable[[str], object]) -> Outcome:
    """Builds the peers of a case, runs each once to warm up, and measures them.

    Args:
        case: What to measure; an exact one needs no first run.
        settings: Rounds and budget, of this case.
        measure: Maps a step to its value.
        tick: Called with the label after every step.

    Raises:
        RuntimeError: The baseline is not available.
    """
    outcome, steps = Outcome(), {}
    start = time.monotonic()
    for label, build in case.peers.items():
        torch.manual_seed(0)
        try:
            steps[label] = build()
            if not case.exact:
                steps[label]()
            if settings.graph:
                steps[label] = graphed(steps[label])
        except UNAVAILABLE as error:
            outcome.skipped[label] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            steps.pop(label, None)
        tick(label)
    if next(iter(case.peers)) not in steps:
        raise RuntimeError(f"{case.name}: no baseline: {outcome.skipped[next(iter(case.peers))]}")
    left = settings.budget - (time.monotonic() - start)
    outcome.values = interleave(steps, measure, settings.rounds, settings.warmup, left, tick)
    return outcome


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
