"""Peak memory of a training step."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from bench.case import Settings, Step, training_step


def memory_step(model: nn.Module, x: Tensor, settings: Settings) -> Step:
    """A training step that returns its peak in MB: the model, its input, and what the step allocates on top."""
    step = training_step(model, x, settings)
    held = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers(), x])
    peak = cuda_peak if settings.device == "cuda" else cpu_peak
    return lambda: (held + peak(step)) / 1e6


def cuda_peak(step: Step) -> int:
    """Bytes that the allocator gave out at the most during a step, beyond those held before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def cpu_peak(step: Step) -> int:
    """The same on the CPU, from the profiler's record of every allocation and release of torch's."""
    with _muted(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    results: Any = record.profiler.kineto_results if record.profiler else None
    changes = sorted((event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]")
    return max(accumulate((size for _, size in changes), initial=0))


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Keeps the profiler, which says when it starts and warns of its cycles, from writing through the progress bar."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
