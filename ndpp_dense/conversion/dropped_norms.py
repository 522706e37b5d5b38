"""What becomes of a norm when layers are converted: it goes with the layer that takes over its work, or it stays."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ndpp_dense.conversion.dataflow import Dataflow
from ndpp_dense.conversion.module_surgery import carry_hooks
from ndpp_dense.conversion.norm_pairs import find_partner, out_channels
from ndpp_dense.conversion.probe import is_plain_norm
from ndpp_dense.conversion.report import LayerRecord
from ndpp_dense.conversion.rules import RuleBook
from ndpp_dense.layers.pass_through import PassThrough

__all__ = ["drop_norm"]


def drop_norm(
    name: str, model: nn.Module, book: RuleBook, flow: Dataflow, out: dict[nn.Module, nn.Module]
) -> LayerRecord:
    """Decides on one norm: it goes with the layers before it (those behind it, where none is before).

    Args:
        name: Of the norm.
        model: The model that it is part of, before conversion.
        book: The rules.
        flow: What a forward pass has shown.
        out: Replacement of every module that conversion replaces; the norm's is added.
    """
    norm = model.get_submodule(name)
    parent_name = name.rpartition(".")[0]
    inside = model.get_submodule(parent_name) in out
    partners, before = ((parent_name,), True) if inside else _partners(name, model, flow)
    layers = [model.get_submodule(partner) for partner in partners]
    adjacent = bool(layers) and all(layer in out for layer in layers)
    found = book.lookup(name)
    if found is not None and isinstance(found[0], bool):
        drop, reason = found
        if inside and not drop:
            raise ValueError(f"The {reason} keeps {name!r}, which is part of a converted layer: leave that layer too.")
    elif inside:
        drop, reason = True, "part of a converted layer"
    elif not is_plain_norm(norm):
        drop, reason = False, f"{type(norm).__qualname__} has a forward of its own"
    else:
        drop, reason = adjacent, _shown(partners, parent_name, adjacent)
    stands_in = partners if drop and adjacent and before else ()
    if stands_in and _starts_at_zero(norm):
        if any(_is_shared(layer.weight, model) for layer in layers):
            reason += "; starts at zero, which the layer cannot: its weight is another's too"
        else:
            _take_over_zero(norm, [out[layer] for layer in layers])
    if drop and not inside:
        out[norm] = _stand_in(norm, out[layers[0]] if len(stands_in) == 1 else None)
    only = stands_in[0] if len(stands_in) == 1 else ""
    return LayerRecord(name, type(norm).__name__, "dropped" if drop else "kept", reason, stands_in=only)


def _partners(name: str, model: nn.Module, flow: Dataflow) -> tuple[tuple[str, ...], bool]:
    """The layers that a norm belongs to and whether they come before it: as seen, else as the model is built."""
    seen = flow.partners(name)
    if seen is not None:
        return seen
    partner, before = find_partner(name, model)
    return (() if partner is None else (partner,)), before


def _shown(partners: tuple[str, ...], parent: str, adjacent: bool) -> str:
    if not partners:
        return "no adjacent converted layer"
    names = ", ".join(repr(partner.removeprefix(f"{parent}.")) for partner in partners[:3])
    return f"{'with' if adjacent else 'belongs to'} {names}{', ...' if len(partners) > 3 else ''}"


def _stand_in(norm: nn.Module, source: nn.Module | None) -> nn.Module:
    """What stands where the norm was: its input, then the activation that the norm carried."""
    rest = [m for m in (getattr(norm, "drop", None), getattr(norm, "act", None)) if isinstance(m, nn.Module)]
    through = PassThrough(source)
    module = nn.Sequential(through, *rest) if rest else through
    carry_hooks(norm, module)
    return module


def _is_shared(parameter: Any, model: nn.Module) -> bool:
    """Whether several modules have the same parameter."""
    owners = [m for m in model.modules() if any(p is parameter for p in m.parameters(recurse=False))]
    return len(owners) > 1


def _starts_at_zero(norm: nn.Module) -> bool:
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    if not isinstance(weight, nn.Parameter) or not isinstance(bias, nn.Parameter) or weight.is_meta:
        return False
    return not weight.any()


@torch.no_grad()
def _take_over_zero(norm: Any, layers: list[Any]) -> None:
    """Starts layers at zero if the norm behind them does: their output, such as a residual branch, is its shift."""
    widths = [out_channels(layer) for layer in layers]
    beside = sum(widths) == len(norm.bias)  # their outputs were concatenated
    shifts: tuple[Tensor, ...] = norm.bias.split(widths) if beside else (norm.bias,) * len(layers)
    for layer, shift in zip(layers, shifts, strict=True):
        layer.weight.zero_()
        layer.bias.copy_(shift)
