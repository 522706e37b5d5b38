"""Numbers that tell tensors apart, and how two models' numbers are compared."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["Seen", "all_numbers", "difference", "numbers", "tensors"]

NOISE = 1e-9  # of the largest number of its kind
Seen = list[tuple[str, tuple[int, ...], float, float]]  # name, shape, mean weighted by place, root mean square


def difference(expected: Mapping[str, Any], found: Mapping[str, Any], tolerance: float, where: str = "") -> str:
    """The first that differs, or nothing. Gradients are compared by name: conversion adds biases and drops norms."""
    for part in ("layers", "outputs", "gradients"):
        ours, theirs = found.get(part, []), expected.get(part, [])
        if part == "gradients":
            both = {name for name, *_ in ours} & {name for name, *_ in theirs}
            ours, theirs = ([entry for entry in side if entry[0] in both] for side in (ours, theirs))
            ours, theirs = sorted(ours), sorted(theirs)
        sizes = [abs(size) for *_, size in theirs if abs(size) < float("inf")]
        floor = NOISE * max(sizes, default=0.0)  # a bias before a norm has no gradient but rounding
        for one, other in zip(theirs, ours, strict=False):
            if not _same(one, other, tolerance, floor):
                return f"{where}{part}: {one[0]} {one[1:]} became {other}"
        if len(ours) != len(theirs) and ours and theirs:
            return f"{where}{part}: {len(theirs)} became {len(ours)}"
    return ""


def _same(one: tuple[Any, ...], other: tuple[Any, ...], tolerance: float, floor: float) -> bool:
    if one[:2] != other[:2]:
        return False
    (mean, size), (its_mean, its_size) = one[2:], other[2:]
    if not abs(size) < float("inf"):
        return str(size) == str(its_size)
    margin = tolerance * size + floor
    return abs(mean - its_mean) <= margin and abs(size - its_size) <= margin


def all_numbers(name: str, outputs: Any) -> Seen:
    """Return the numbers of all tensors of an output."""
    return [numbers(name, tensor) for tensor in tensors(outputs)]


def numbers(name: str, output: Any) -> tuple[str, tuple[int, ...], float, float]:
    """Return the numbers of the first tensor of an output."""
    x = next(tensors(output), None)
    if x is None:
        return name, (), 0.0, 0.0
    values = x.detach().double().flatten()
    if not values.numel():
        return name, tuple(x.shape), 0.0, 0.0
    weights = torch.linspace(0.5, 1.5, len(values), dtype=values.dtype)  # order counts
    return name, tuple(x.shape), (values * weights).mean().item(), values.square().mean().sqrt().item()


def tensors(value: Any) -> Iterator[Tensor]:
    """The floating point tensors of an output, whatever container holds them."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for key in value:
            yield from tensors(value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
    elif hasattr(value, "get_fields"):  # Detectron2's instances
        yield from tensors(value.get_fields())
    elif hasattr(value, "tensor"):  # and boxes
        yield from tensors(value.tensor)
