"""Initialisation that a model's config puts on norms which conversion drops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from ndpp_dense.conversion.convert import convert_to_ndpp
from ndpp_dense.conversion.examples import Example
from ndpp_dense.conversion.report import ConversionReport
from ndpp_dense.layers import WhiteningConfig

__all__ = ["convert_with_initialization"]


def convert_with_initialization(
    model: nn.Module,
    config: WhiteningConfig | None,
    rules: Mapping[Any, Any] | None,
    example: Example | None = None,
) -> ConversionReport:
    """Converts a model whose ``init_weights()`` has yet to run.

    MMEngine initialises by ``init_cfg``, in which a residual block names its last norm to start at zero
    (``zero_init_residual``). The layer that stands in for a dropped norm is named in its place.

    Args:
        model: As MMSegmentation builds it.
        config: See :func:`ndpp_dense.convert_to_ndpp`.
        rules: Likewise.
        example: Likewise.
    """
    names = {module: name for name, module in model.named_modules()}
    found = [
        (override, names[owner], names[norm])
        for owner in model.modules()
        for override in _overrides(getattr(owner, "init_cfg", None))
        if (norm := getattr(owner, override.get("name", ""), None)) in names
    ]
    report = convert_to_ndpp(model, config, rules, example)
    stands_in = {record.name: record.stands_in for record in report.records if record.stands_in}
    for override, owner, norm in found:
        if norm in stands_in:
            override["name"] = stands_in[norm].removeprefix(f"{owner}.")
    return report


def _overrides(init_cfg: Any) -> Iterator[dict[str, Any]]:
    """The dictionaries of an ``init_cfg`` that are about one attribute each."""
    entries = init_cfg if isinstance(init_cfg, list) else [init_cfg]
    for entry in entries:
        override = entry.get("override") if isinstance(entry, dict) else None
        yield from override if isinstance(override, list) else [override] if override else []
