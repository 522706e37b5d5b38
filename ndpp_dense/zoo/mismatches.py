"""Where weights and a model differ, as a table."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

__all__ = ["mismatches"]

_SHOWN = 24  # rows, shared by the kinds there are; more would hide what they say


def mismatches(weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Names that only one of them has, and names with different shapes.

    Args:
        weights: What is to be loaded.
        state: The model's state dictionary.

    Returns:
        A table, a line for each name up to a limit that the kinds share, and the counts; empty where there is no
        difference.
    """
    counted = ".num_batches_tracked"  # which nothing needs
    rows = [("missing", name, "-", _shape(value)) for name, value in state.items() if name not in weights]
    rows = [row for row in rows if not row[1].endswith(counted)]
    rows += [("left over", name, _shape(weights[name]), "-") for name in sorted(weights.keys() - state.keys())]
    rows += [
        ("shape", name, _shape(weights[name]), _shape(value))
        for name, value in state.items()
        if name in weights and weights[name].shape != value.shape
    ]
    if not rows:
        return ""
    kinds = ("missing", "left over", "shape")
    of_each = _SHOWN // len({row[0] for row in rows})
    shown = [row for kind in kinds for row in [row for row in rows if row[0] == kind][:of_each]]
    lines = [("", "name", "in the weights", "in the model"), *shown]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    more = [f"... and {len(rows) - len(shown)} more"] if len(rows) > len(shown) else []
    counts = ", ".join(f"{sum(row[0] == kind for row in rows)} {kind}" for kind in kinds)
    return "\n".join([*table, *more, f"{len(state)} entries in the model: {counts}"])


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
