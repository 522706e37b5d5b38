"""Turning a model into ND++, in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from ndpp_dense.conversion.module_surgery import carry_hooks, carry_over, extra_state, replace_modules
from ndpp_dense.conversion.norm_pairs import find_partner, linear_kind
from ndpp_dense.conversion.others import other_layers, use_no_fused_kernels, work_on_copies
from ndpp_dense.conversion.probe import is_norm, is_plain_norm, runs_as_plain
from ndpp_dense.conversion.report import ConversionReport, LayerRecord
from ndpp_dense.conversion.rules import LINEAR_TYPES, Rule, RuleBook
from ndpp_dense.layers import NDConv2d, NDConvTranspose2d, NDLayer, NDLinear, WhiteningConfig, nd_layers
from ndpp_dense.layers.base import ND_ATTRIBUTES
from ndpp_dense.layers.conv_transpose import unsupported_geometry
from ndpp_dense.layers.pass_through import PassThrough
from ndpp_dense.layers.statistics.steps import watch_steps

__all__ = ["ConversionReport", "convert_to_ndpp"]


def convert_to_ndpp(
    model: nn.Module, config: WhiteningConfig | None = None, rules: Mapping[Any, Rule] | None = None
) -> ConversionReport:
    """Replaces the linear layers of a model by ND++ layers and drops the norms that these make superfluous.

    Parameters are kept (the same objects); a layer without a bias gets one, since the norm that shifted its output
    goes. Where that norm starts at zero, as at the end of a residual branch, the layer starts at zero in its place.
    Call it before the optimizer, DDP and ``torch.compile`` see the model.

    Args:
        model: Any module with linear layers below it (not itself one).
        config: How to whiten; ``WhiteningConfig.fast("imagenet")`` if None.
        rules: Exceptions by name, pattern or type; see :class:`ndpp_dense.conversion.rules.RuleBook`. Prediction layers
            and layers that pyramid levels share are left by default.

    Returns:
        The report; print it, and prove with ``report.verify(model, *inputs)`` that all converted layers run.

    Raises:
        ValueError: Nothing was converted, the model is itself a linear layer, or a rule is invalid or matches nothing.
    """
    if not isinstance(model, nn.Module) or not isinstance(config, WhiteningConfig | None):
        wrong, wanted = (config, "a WhiteningConfig") if isinstance(model, nn.Module) else (model, "a module")
        raise ValueError(
            f"convert_to_ndpp takes {wanted}, not {wrong!r:.60}. For example: convert_to_ndpp(model, "
            'WhiteningConfig.fast("coco")).'
        )
    book = RuleBook(config or WhiteningConfig.fast("imagenet"), rules)
    if linear_kind(model) is not None:
        raise ValueError(
            f"A lone {type(model).__name__} cannot be replaced in place: use NDLinear.from_linear and the like."
        )
    names = {name for name, m in model.named_modules(remove_duplicate=False) if linear_kind(m) or is_norm(m)}
    book.check_used(sorted(names))
    replacements: dict[nn.Module, nn.Module] = {}
    records: dict[nn.Module, LayerRecord] = {}
    for name, module in model.named_modules():
        if not isinstance(module, NDLayer) and linear_kind(module):
            records[module] = _convert_layer(name, module, book, replacements)
    for name, module in model.named_modules():
        if is_norm(module) and module is not model:
            records[module] = _drop_norm(name, module, model, book, replacements)
    records |= other_layers(model, records)
    if not any(record.action == "converted" for record in records.values()):
        raise ValueError("Nothing was converted:\n" + str(ConversionReport(list(records.values()))))
    report = ConversionReport([records[module] for module in model.modules() if module in records])
    replace_modules(model, replacements)
    use_no_fused_kernels(model)
    work_on_copies(model)
    if any(not layer.whitening.schedule.fresh for _, layer in nd_layers(model)):
        watch_steps(model)
    return report


_RESERVED = (ND_ATTRIBUTES - {"activation"}) | {"forward"}  # names that a replaced layer cannot bring along


def _convert_layer(name: str, module: nn.Module, book: RuleBook, out: dict[nn.Module, nn.Module]) -> LayerRecord:
    """Decides on one linear layer and puts its replacement into ``out``."""
    kind = linear_kind(module)
    assert kind is not None
    config, reason = book.decide(name, kind)
    fault = _unconvertible(module)
    if config is None or fault:
        return LayerRecord(name, type(module).__name__, "left", reason if config is None else fault or "")
    layer: NDLayer
    if isinstance(module, nn.Conv2d):
        layer = NDConv2d.from_conv(module, config)
    elif isinstance(module, nn.ConvTranspose2d):
        layer = NDConvTranspose2d.from_conv_transpose(module, config)
    else:
        layer = NDLinear.from_linear(module, config)  # type: ignore[arg-type]
    out[module] = layer
    carry_over(module, layer, LINEAR_TYPES[kind], but=("activation", "norm"))
    blocks, dim = layer.whitening.running_mean.shape
    return LayerRecord(name, type(module).__name__, "converted", reason, layer.block_size, (blocks, dim))


def _unconvertible(module: nn.Module) -> str | None:
    """Why a linear layer must stay as it is, or None.

    A subclass with a forward of its own may do something that a plain layer does not (weight standardisation, dynamic
    padding). Those that only call their parent, or their ``norm`` and ``activation`` afterwards, are told by running
    them.
    """
    if isinstance(module, nn.ConvTranspose2d) and unsupported_geometry(module):
        return unsupported_geometry(module)
    if isinstance(module, NonDynamicallyQuantizableLinear):
        return "the attention that it belongs to reads its weight, and never calls it"
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in module.parameters(recurse=False)):
        return "lazy: run the model once before conversion"
    if hasattr(module, "parametrizations"):
        return "parametrised weight"
    if not isinstance(module.weight, nn.Parameter):
        return "its weight is computed by a hook"
    if not isinstance(module.bias, nn.Parameter | None):
        return "its bias is computed by a hook"
    if module.weight.is_complex():
        return "complex weight"
    plain = LINEAR_TYPES[linear_kind(module) or ""]
    norm = getattr(module, "norm", None)
    if norm is not None and not (isinstance(norm, nn.Module) and is_norm(norm) and is_plain_norm(norm)):
        return f"its own norm ({type(norm).__name__}) would be lost"
    if not runs_as_plain(module, plain):
        return f"{type(module).__qualname__} has a forward of its own"
    taken = sorted(_RESERVED & set(extra_state(module, plain)))
    return f"its own attribute {taken[0]!r} would be lost" if taken else None


def _drop_norm(
    name: str, norm: nn.Module, model: nn.Module, book: RuleBook, out: dict[nn.Module, nn.Module]
) -> LayerRecord:
    """Decides on one norm: it goes with the layer before it (the one behind it, where none is before)."""
    found = book.lookup(name)
    own_forward = not is_plain_norm(norm)
    parent_name = name.rpartition(".")[0]
    parent = model.get_submodule(parent_name)
    partner, before = find_partner(name, model)
    adjacent = partner is not None and model.get_submodule(partner) in out
    if found is not None and isinstance(found[0], bool):
        drop, reason = found
        if parent in out and not drop:
            raise ValueError(f"The {reason} keeps {name!r}, which is part of a converted layer: leave that layer too.")
    elif parent in out:
        drop, reason = True, "part of a converted layer"
    elif own_forward:
        drop, reason = False, f"{type(norm).__qualname__} has a forward of its own"
    else:
        drop = adjacent
        shown = None if partner is None else partner.removeprefix(f"{parent_name}.")
        reason = "no adjacent converted layer" if shown is None else f"{'with' if drop else 'belongs to'} {shown!r}"
    stands_in = ""
    if drop and (parent in out or (adjacent and before)):
        stands_in = parent_name if parent in out else partner or ""
        stand_in = model.get_submodule(stands_in)
        if _starts_at_zero(norm) and _is_shared(stand_in.weight, model):
            reason += "; starts at zero, which the layer cannot: its weight is another's too"
        else:
            _take_over_zero(norm, out[stand_in])
    if drop and parent not in out:
        source = out[model.get_submodule(partner)] if adjacent and before and partner is not None else None
        rest = [m for m in (getattr(norm, "drop", None), getattr(norm, "act", None)) if isinstance(m, nn.Module)]
        through = PassThrough(source)
        out[norm] = nn.Sequential(through, *rest) if rest else through
        carry_hooks(norm, out[norm])
    return LayerRecord(name, type(norm).__name__, "dropped" if drop else "kept", reason, stands_in=stands_in)


def _is_shared(parameter: Any, model: nn.Module) -> bool:
    """Whether several modules have the same parameter."""
    owners = [m for m in model.modules() if any(p is parameter for p in m.parameters(recurse=False))]
    return len(owners) > 1


def _starts_at_zero(norm: nn.Module) -> bool:
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    if not isinstance(weight, nn.Parameter) or not isinstance(bias, nn.Parameter) or weight.is_meta:
        return False
    return not weight.any()


def _take_over_zero(norm: nn.Module, layer: nn.Module) -> None:
    """Starts a layer at zero if the norm behind it does: its output, such as a residual branch, is the norm's shift."""
    if _starts_at_zero(norm):
        with torch.no_grad():
            layer.weight.zero_()  # type: ignore[operator, union-attr]
            layer.bias.copy_(norm.bias)  # type: ignore[operator, union-attr, arg-type]
