"""Turning a model into ND++, in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from ndpp_dense.conversion.attention import attention_names, attention_split
from ndpp_dense.conversion.dataflow import Dataflow, watch
from ndpp_dense.conversion.dropped_norms import drop_norm
from ndpp_dense.conversion.examples import Example, runner, watch_guessed
from ndpp_dense.conversion.module_surgery import carry_over, extra_state, replace_modules
from ndpp_dense.conversion.norm_pairs import linear_kind
from ndpp_dense.conversion.others import other_layers, use_no_fused_kernels, work_on_copies
from ndpp_dense.conversion.probe import is_norm, is_plain_norm, runs_as_plain
from ndpp_dense.conversion.report import ConversionReport, LayerRecord
from ndpp_dense.conversion.rules import LINEAR_TYPES, Rule, RuleBook
from ndpp_dense.layers import (
    NDConv1d,
    NDConv2d,
    NDConv3d,
    NDConvTranspose1d,
    NDConvTranspose2d,
    NDConvTranspose3d,
    NDLayer,
    NDLinear,
    WhiteningConfig,
    nd_layers,
)
from ndpp_dense.layers.base import ND_ATTRIBUTES
from ndpp_dense.layers.conv_transpose import unsupported_geometry
from ndpp_dense.layers.statistics.steps import watch_steps

__all__ = ["ConversionReport", "ExampleError", "convert_to_ndpp"]


class ExampleError(ValueError):
    """A model does not run on the example that was given."""


def convert_to_ndpp(
    model: nn.Module,
    config: WhiteningConfig | None = None,
    rules: Mapping[Any, Rule] | None = None,
    example: Example | None = None,
) -> ConversionReport:
    """Replaces the linear layers of a model by ND++ layers and drops the norms that these make superfluous.

    A forward pass in evaluation mode shows which norm follows which layer, which layers pyramid levels share, and which
    are never called because something else reads their weights. Where neither ``example`` nor a guess runs, names and
    neighbours decide.

    Parameters are kept (the same objects); a layer without a bias gets one, since the norm that shifted its output
    goes. Where that norm starts at zero, as at the end of a residual branch, the layer starts at zero in its place.
    Call it before the optimizer, DDP and ``torch.compile`` see the model.

    Args:
        model: Any module with linear layers below it (not itself one).
        config: How to whiten; ``WhiteningConfig.fast("imagenet")`` if None.
        rules: Exceptions by name, pattern or type; see :class:`ndpp_dense.conversion.rules.RuleBook`. Prediction layers
            and layers that run at several sizes, as those that pyramid levels share, are left by default; so are the
            input projections of ``nn.MultiheadAttention``, which ``{"MultiheadAttention": True}`` makes layers of their
            own (:class:`ndpp_dense.conversion.attention.SplitAttention`).
        example: What the model can be called with: a tensor, a tuple of arguments or a mapping of keywords; or a
            function that takes the model and runs it. If None, pictures and rows of the first layer's width are tried
            on a copy of the model.

    Returns:
        The report; print it, and prove with ``report.verify(model, *inputs)`` that all converted layers run.

    Raises:
        ValueError: Nothing was converted, the model is itself a linear layer, or a rule is invalid or matches nothing.
        ExampleError: The model does not run on ``example``.
    """
    if not isinstance(model, nn.Module) or not isinstance(config, WhiteningConfig | None):
        wrong, wanted = (config, "a WhiteningConfig") if isinstance(model, nn.Module) else (model, "a module")
        raise ValueError(
            f"convert_to_ndpp takes {wanted}, not {wrong!r:.60}. For example: convert_to_ndpp(model, "
            'WhiteningConfig.fast("coco")).'
        )
    book = RuleBook(config or WhiteningConfig.fast("imagenet"), rules)
    if linear_kind(model) is not None or isinstance(model, nn.MultiheadAttention):
        raise ValueError(
            f"A lone {type(model).__name__} cannot be replaced in place: use NDLinear.from_linear and the like, or put "
            "it into an nn.Sequential."
        )
    with attention_split(model, book):
        return _convert(model, book, example)


def _convert(model: nn.Module, book: RuleBook, example: Example | None) -> ConversionReport:
    """The conversion itself, where attention is split as far as the rules want it."""
    names = {name for name, m in model.named_modules(remove_duplicate=False) if linear_kind(m) or is_norm(m)}
    book.check_used(sorted(names | attention_names(model)))
    flow = _watched(model, example)
    replacements: dict[nn.Module, nn.Module] = {}
    records: dict[nn.Module, LayerRecord] = {}
    for name, module in model.named_modules():
        if not isinstance(module, NDLayer) and linear_kind(module):
            records[module] = _convert_layer(name, module, book, flow, replacements)
    for name, module in model.named_modules():
        if is_norm(module) and module is not model:
            records[module] = drop_norm(name, model, book, flow, replacements)
    records |= other_layers(model, records)
    if not any(record.action == "converted" for record in records.values()):
        there = sum(1 for _ in nd_layers(model))
        said = f"The model has {there} ND++ layers already, and n" if there else "N"
        raise ValueError(f"{said}othing was converted:\n{ConversionReport(list(records.values()))}")
    report = ConversionReport([records[m] for m in model.modules() if m in records], frozenset(flow.sizes))
    replace_modules(model, replacements)
    use_no_fused_kernels(model)
    work_on_copies(model)
    if any(not layer.whitening.schedule.fresh for _, layer in nd_layers(model)):
        watch_steps(model)
    return report


_RESERVED = (ND_ATTRIBUTES - {"activation"}) | {"forward"}  # names that a replaced layer cannot bring along


def _watched(model: nn.Module, example: Example | None) -> Dataflow:
    """What a forward pass shows; nothing where none is to be had."""
    if example is None:
        return watch_guessed(model) or Dataflow()
    run = runner(example)
    try:
        return watch(model, run)
    except Exception as error:
        raise ExampleError(f"The model does not run on the example: {type(error).__name__}: {error}") from error


_ND_LAYERS: dict[str, Callable[[Any, WhiteningConfig], NDLayer]] = {
    "Conv1d": NDConv1d.from_conv,
    "Conv2d": NDConv2d.from_conv,
    "Conv3d": NDConv3d.from_conv,
    "ConvTranspose1d": NDConvTranspose1d.from_conv_transpose,
    "ConvTranspose2d": NDConvTranspose2d.from_conv_transpose,
    "ConvTranspose3d": NDConvTranspose3d.from_conv_transpose,
    "Linear": NDLinear.from_linear,
}


def _convert_layer(
    name: str, module: nn.Module, book: RuleBook, flow: Dataflow, out: dict[nn.Module, nn.Module]
) -> LayerRecord:
    """Decides on one linear layer and puts its replacement into ``out``."""
    kind = linear_kind(module) or ""
    config, reason = book.decide(name, kind, shared=len(flow.sizes.get(name, ())) > 1)
    fault = "something else reads its weight, and does not call it" if name in flow.read else _unconvertible(module)
    if config is None or fault:
        return LayerRecord(name, type(module).__name__, "left", reason if config is None else fault or "")
    layer = _ND_LAYERS[kind](module, config)
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
    if isinstance(module, _ConvTransposeNd) and unsupported_geometry(module):
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
