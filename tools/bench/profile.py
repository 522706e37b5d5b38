"""Where the time of an ND++ training step goes: the functions of its parts are timed while a step runs."""

import contextlib
import importlib
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import nn

from bench.case import Settings
from bench.timing import timer

# Functions by part, as the layers look them up: module, class (or none) and name. None calls another of the list.
PARTS = {
    "moments": (
        "ndpp_dense.layers.conv:patch_matrix",
        "ndpp_dense.layers.statistics.sampling:data_moments",
        "ndpp_dense.layers.statistics.whitening:mean_and_covariance",
        "ndpp_dense.layers.statistics.running:move_averages",
        "ndpp_dense.layers.statistics.exchange:average_moments",
    ),
    "collective": ("ndpp_dense.layers.statistics.sampling:sum_moments_over_ranks",),
    "solver": (
        "ndpp_dense.layers.statistics.whitening:Whitening.solve",
        "ndpp_dense.layers.statistics.whitening:step_whitening",
    ),
    "D·w": ("ndpp_dense.layers.base:NDLayer.whitened_parameters",),
    "convolution": (
        "ndpp_dense.layers.conv:scaled_conv",
        "ndpp_dense.layers.conv:self_scaled_conv2d",
        "ndpp_dense.layers.conv_transpose:scaled_conv_transpose",
        "ndpp_dense.layers.linear:scaled_linear",
    ),
    "local scale": ("ndpp_dense.layers.base:NDLayer._scaled",),
}


def profile(model: nn.Module, x: torch.Tensor, settings: Settings, steps: int = 3) -> dict[str, float | None]:
    """Seconds by part of a training step, medians of some steps after a first one.

    The clock around every call waits for the device, so on a GPU the parts add up to more than a step takes.

    Returns:
        Seconds of each part in the forward pass, of ``backward`` as a whole and of the ``rest`` of the forward; None
        for a part of which no function is there to be timed.
    """
    runs = [_one_step(model, x, settings) for _ in range(steps + 1)][1:]
    return {
        part: None if runs[0][part] is None else statistics.median(run[part] for run in runs)  # type: ignore[type-var]
        for part in runs[0]
    }


def _one_step(model: nn.Module, x: torch.Tensor, settings: Settings) -> dict[str, Any]:
    clock = timer(settings)
    out: list[torch.Tensor] = []

    def forward() -> None:
        with settings.autocast():
            out.append(model(x).float().square().mean())

    with timed_parts(settings) as spent:
        total = clock(forward)
    parts: dict[str, Any] = {part: spent.get(part) for part in PARTS}
    parts["rest"] = total - sum(filter(None, parts.values()))
    parts["backward"] = clock(out[0].backward)
    model.zero_grad(set_to_none=True)
    return parts


@contextlib.contextmanager
def timed_parts(settings: Settings) -> Iterator[dict[str, float]]:
    """Adds up the seconds that the functions of each part take inside the block."""
    spent: dict[str, float] = defaultdict(float)

    def timed(call: Callable[..., Any], part: str) -> Callable[..., Any]:
        spent[part] += 0.0
        return _timed(call, part, spent, settings)

    with wrapped_parts(timed):
        yield spent


@contextlib.contextmanager
def wrapped_parts(wrap: Callable[[Callable[..., Any], str], Callable[..., Any]]) -> Iterator[None]:
    """Puts ``wrap(function, part)`` in the place of every function of the parts that is there, inside the block."""
    with contextlib.ExitStack() as patches:
        for part, places in PARTS.items():
            for place in places:
                owner, name = _owner(place)
                if hasattr(owner, name):
                    patches.enter_context(mock.patch.object(owner, name, wrap(getattr(owner, name), part)))
        yield


def _owner(place: str) -> tuple[Any, str]:
    module, _, path = place.partition(":")
    *classes, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for word in classes:
        owner = getattr(owner, word, None)
    return owner, name


def _timed(call: Callable[..., Any], part: str, spent: dict[str, float], settings: Settings) -> Callable[..., Any]:
    def runs(*args: Any, **kwargs: Any) -> Any:
        results: list[Any] = []
        spent[part] += timer(settings)(lambda: results.append(partial(call, *args, **kwargs)()))
        return results[0]

    return runs
