"""What a conversion did, layer by layer, and the proof that the converted layers run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ndpp_dense.conversion.module_surgery import evaluation
from ndpp_dense.layers.base import nd_layers

__all__ = ["ConversionReport", "LayerRecord", "shortened"]


@dataclass(frozen=True)
class LayerRecord:
    """One linear or normalisation layer of the model.

    Attributes:
        name: Its name in the model.
        kind: Class that it had.
        action: ``"converted"``, ``"left"``, ``"dropped"`` (a norm that conversion replaces) or ``"kept"`` (a norm).
        reason: The rule that decided, or why it was left.
        block_size: Channels of a block; 0 if not converted.
        matrices: Number and size of its whitening matrices, ``(G, D)``; (0, 0) if not converted.
        stands_in: Of a dropped norm: the name of the converted layer before it, which does its work now; else empty.
    """

    name: str
    kind: str
    action: str
    reason: str
    block_size: int = 0
    matrices: tuple[int, int] = (0, 0)
    stands_in: str = ""


@dataclass
class ConversionReport:
    """Result of ``convert_to_ndpp``; prints as a table.

    Attributes:
        records: One entry per linear and normalisation layer, in the model's order.
        ran: Names of the linear layers that ran in a forward pass of the original model, as far as one was seen.
    """

    records: list[LayerRecord] = field(default_factory=list)
    ran: frozenset[str] = frozenset()

    @property
    def converted(self) -> list[str]:
        """Names of the layers that are ND++ layers now."""
        return self._names("converted")

    @property
    def left(self) -> list[str]:
        """Names of the linear layers that stayed plain."""
        return self._names("left")

    @property
    def dropped_norms(self) -> list[str]:
        """Names of the normalisation layers that are gone."""
        return self._names("dropped")

    def _names(self, action: str) -> list[str]:
        return [record.name for record in self.records if record.action == action]

    def summary(self) -> str:
        """One line: how many layers were converted and left, how many norms dropped and kept."""
        counts = {a: len(self._names(a)) for a in ("converted", "left", "dropped", "kept")}
        return (
            f"{counts['converted']} layers converted to ND++, {counts['left']} left plain; "
            f"{counts['dropped']} norms dropped, {counts['kept']} kept"
        )

    def __str__(self) -> str:
        header = ("layer", "was", "action", "block", "D", "rule or reason")
        rows: list[tuple[str, ...]] = [header]
        for r in self.records:
            if r.action == "dropped":
                continue  # one line per norm would drown the layers; the last line counts them
            blocks, dim = r.matrices
            sizes = (str(r.block_size), f"{blocks} x {dim}x{dim}") if r.block_size else ("-", "-")
            rows.append((r.name, r.kind, r.action, *sizes, r.reason))
        widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
        rows.insert(1, tuple("-" * width for width in widths))
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, self.summary()])

    def verify(self, model: nn.Module, *inputs: Any, **kwargs: Any) -> None:
        """Proves by a dry forward, in evaluation mode and without gradients, that every converted layer runs.

        Args:
            model: The converted model.
            *inputs: What to call it with.
            **kwargs: Likewise.

        Raises:
            RuntimeError: Some converted layers did not run, with their names: a plain layer still runs in their place
                (held where conversion cannot see it), or this input does not reach them.
        """
        idle, count = self.idle(model, lambda module: module(*inputs, **kwargs))
        if idle or not count:
            raise RuntimeError(
                f"{len(idle)} of {count} converted layers did not run in a forward pass: {shortened(idle)}. Either "
                "plain layers still run in their place (check how the model holds them), or this input does not reach "
                "them (then leave them out by a rule)."
            )

    def idle(self, model: nn.Module, run: Callable[[nn.Module], Any]) -> tuple[list[str], int]:
        """Converted layers that a forward pass, in evaluation mode and without gradients, does not reach.

        Args:
            model: The converted model.
            run: Runs it.

        Returns:
            Their names, and how many converted layers there are.
        """
        ran: set[nn.Module] = set()
        hooks = [layer.register_forward_hook(lambda m, *_: ran.add(m)) for _, layer in nd_layers(model)]
        try:
            with evaluation(model), torch.no_grad():
                run(model)
        finally:
            for hook in hooks:
                hook.remove()
        return [name for name, layer in nd_layers(model) if layer not in ran], len(hooks)


def shortened(names: Sequence[str]) -> str:
    """The first ten names, in a row."""
    return ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")
