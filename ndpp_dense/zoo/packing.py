"""Weights in a few megabytes: half precision, symmetric matrices as triangles, and D left out where it can be solved.

An ND++ layer stores a running covariance and the D solved from it. Both are symmetric, and with ``statistics="ema"`` D
is a function of the covariance: a file need hold half of one matrix instead of two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ndpp_dense.layers.config import WhiteningConfig
from ndpp_dense.ops.inverse_sqrt import SOLVERS
from ndpp_dense.ops.precision import full_precision
from ndpp_dense.zoo.errors import ZooError

__all__ = ["pack", "unpack"]

COV, WHITENING, TRIANGLE = "running_cov", "running_whitening", "running_cov_triangle"
HALF_ERROR = 1e-3  # relative error, in norm, up to which half precision is taken: its own rounding is 5e-4 at most
WORTH = 1024  # numbers that a tensor must have for it to be worth anything
SAME = 5e-3  # relative difference, in norm, of the D that is solved from packed covariances


def pack(
    weights: Mapping[str, Tensor], layers: Mapping[str, WhiteningConfig]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Makes a state dictionary small.

    Args:
        weights: All entries of a model's state dictionary.
        layers: Configuration of each ND++ layer, by its name in the model.

    Returns:
        The entries of the file, and what :func:`unpack` needs to know: plain values that JSON can hold.
    """
    packed = dict(weights)
    solved: list[dict[str, Any]] = []
    for name, config in layers.items():
        prefix = f"{name}.whitening." if name else "whitening."
        cov, whitening = packed.pop(prefix + COV), packed[prefix + WHITENING]
        triangle = _halved(_triangle(cov))
        packed[prefix + TRIANGLE] = triangle
        how = {"solver": config.solver, "num_iters": config.num_iters, "eps": config.eps}
        if _relative(_solve(_full(triangle), how), whitening.float()) <= SAME:
            del packed[prefix + WHITENING]
            _add(solved, how, prefix)
    small = {name: _halved(value) if value.numel() >= WORTH else value for name, value in packed.items()}
    return {name: value.contiguous() for name, value in small.items()}, {"packing": 1, "solved": solved}


def unpack(entries: Mapping[str, Tensor], facts: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dictionary that :func:`pack` was given, in float32.

    Args:
        entries: Of a file.
        facts: What was noted in it; files without a note are left as they are.

    Raises:
        ZooError: The note is of another version of the package, or does not fit the entries.
    """
    if not facts.get("packing"):
        return dict(entries)
    if facts["packing"] != 1:
        raise ZooError(f"these weights are packed in way {facts['packing']!r}: update ndpp-dense to read them.")
    weights = {name: value.float() if value.dtype is torch.float16 else value for name, value in entries.items()}
    for name in [name for name in weights if name.endswith(f".{TRIANGLE}") or name == TRIANGLE]:
        weights[name.removesuffix(TRIANGLE) + COV] = _full(weights.pop(name))
    try:
        for how in facts["solved"]:
            for prefix in how["layers"]:
                weights[prefix + WHITENING] = _solve(weights[prefix + COV], how)
    except (KeyError, TypeError) as error:
        raise ZooError(f"the weights do not have what their note says of packing: {error}.") from error
    return weights


def _add(solved: list[dict[str, Any]], how: dict[str, Any], prefix: str) -> None:
    """Notes a layer under those that are solved in the same way."""
    for group in solved:
        if {key: value for key, value in group.items() if key != "layers"} == how:
            group["layers"].append(prefix)
            return
    solved.append({**how, "layers": [prefix]})


def _solve(cov_GDD: Tensor, how: Mapping[str, Any]) -> Tensor:
    """D of a covariance, as :meth:`ndpp_dense.layers.statistics.whitening.Whitening.solve` has it."""
    with full_precision(cov_GDD.device):
        identity = torch.eye(cov_GDD.shape[-1])
        return SOLVERS[how["solver"]](cov_GDD + how["eps"] * identity, how["num_iters"])


def _triangle(full_GDD: Tensor) -> Tensor:
    """``(G, D (D + 1) / 2)``: rows of the upper triangle one after the other."""
    rows, columns = torch.triu_indices(full_GDD.shape[-1], full_GDD.shape[-1])
    return full_GDD[:, rows, columns]


def _full(triangle: Tensor) -> Tensor:
    """Inverse of :func:`_triangle`, in float32."""
    count = triangle.shape[-1]
    dim = round(((8 * count + 1) ** 0.5 - 1) / 2)
    if dim * (dim + 1) // 2 != count:
        raise ZooError(f"{count} numbers are no triangle of a matrix: the weights are damaged.")
    rows, columns = torch.triu_indices(dim, dim)
    full = triangle.new_zeros((triangle.shape[0], dim, dim), dtype=torch.float32)
    full[:, rows, columns] = triangle.float()
    full[:, columns, rows] = triangle.float()
    return full


def _halved(value: Tensor) -> Tensor:
    """In half precision, where that loses no more than rounding."""
    if value.dtype is not torch.float32:
        return value
    half = value.half()
    return half if _relative(half.float(), value) <= HALF_ERROR else value


def _relative(value: Tensor, reference: Tensor) -> float:
    norm = float(reference.norm())
    difference = float((value - reference).norm())
    return difference / norm if norm else difference
