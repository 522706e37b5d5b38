"""Starting ND++ from a model that was trained with batch norm."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ndpp_dense.calibration.folds import Folds, OriginalLayer, plan_folds
from ndpp_dense.calibration.trace import refuse_bad_numbers, refuse_difference, replaced_outputs, trace
from ndpp_dense.calibration.weights import SampleScale, average_scale, fit, scale_sums
from ndpp_dense.conversion.attention import attention_split
from ndpp_dense.conversion.convert import ConversionReport, convert_to_ndpp
from ndpp_dense.conversion.module_surgery import evaluation
from ndpp_dense.conversion.rules import Rule, RuleBook
from ndpp_dense.layers import NDLayer, WhiteningConfig, nd_layers
from ndpp_dense.layers.model_statistics import update_stats
from ndpp_dense.ops.collectives import sum_over_ranks

__all__ = ["calibrate_ndpp"]

LARGEST_ERROR = 1e-3  # of a folded weight; beyond it the layer's data type cannot hold both W and D

Run = Callable[[nn.Module, Any], Any]


def calibrate_ndpp(
    model: nn.Module,
    data: Iterable[Any],
    config: WhiteningConfig | None = None,
    rules: Mapping[Any, Rule] | None = None,
    num_batches: int = 20,
    forward: Run | None = None,
    untrained: Collection[str] = (),
) -> ConversionReport:
    """Converts a trained model with batch norms into an ND++ model that computes the same, to be fine-tuned.

    Every batch norm that gets the output of one converted layer and nothing else is folded into it; norms elsewhere
    (before the convolution, behind a concatenation) and other kinds stay. Then mean and D of every layer's input are
    estimated from the data, and its weight is set to ``D^-1`` times the folded weight, so that D undoes it.

    What to expect in evaluation and after :func:`ndpp_dense.fold_ndpp`:

    * ``local_scale="none"``: the original outputs, up to rounding.
    * ``"l1"``, ``"std"``: every layer is exact for a sample whose scale is the average one. Sample n gets
      ``m / m_n W x_n + b`` (Eq. 3 with ``s_n = 1 / m_n``; m is the samples' mean of ``m_n``). ("std" centres before it
      pads, and is not exact at borders.)

    * ``"l1"`` with ``scale_steps``: the original outputs, and ``"l1"`` after so many steps.

    With local scale in every layer the answer is the same for an image at any contrast, as that of the original was
    not. No weights bring that back. Leave it out of the layers that no shortcut goes around, as in a ResNet of timm's
    by ``rules={name: {"local_scale": "none"} for name in ("conv1", "*.downsample.*", "fc")}``: the shortcuts then carry
    the contrast past the residual branches, which have local scale.

    In training with ``statistics="ema"`` the function drifts only as the running statistics do. With ``"batch"`` a
    step whitens with its own D, which differs from the running D that the weights were made for: the first losses are
    higher than in evaluation. A transposed convolution with a stride starts from mean zero, since its phases share
    one bias; in training its running mean, and with it its output, moves to where the data are.

    All statistics come from one pass, in which every layer gets what it got in the original model. With local scale the
    calibrated layers before it give something a little different, which is not taken into account.

    Args:
        model: A trained model in float32 or float64; changed in place, and not at all if an error is raised. Its
            weights stay the same objects. Call it before the optimizer, DDP and ``torch.compile`` see the model.
        data: Batches like those of evaluation; up to ``num_batches`` are drawn and kept in memory. In a distributed
            run every rank must call it with as many batches; statistics are those of all.
        config: How to whiten; ``WhiteningConfig.fast("imagenet")`` if None.
        rules: Exceptions, as :func:`ndpp_dense.convert_to_ndpp` takes them. False for a norm keeps it.
        num_batches: How many to use, >= 1. Each layer needs as many rows (positions of all samples) as D has, or more.
        forward: Runs the model, which is in evaluation mode, on a batch and returns its output; ``model(batch)`` by
            default. It must reach all layers to be converted, and be the same at every call: a model that draws
            proposals needs its random numbers from a seed. See :func:`ndpp_dense.calibration.training_paths` for models
            that reach some layers in training mode only.
        untrained: Names of layers whose weights are newly initialised, such as a head for other classes. They keep them
            and start as ND++ layers do, with the statistics of their inputs.

    Returns:
        The report; it says of every norm into which layer it went, or why it stays.

    Raises:
        ValueError: There is no or too little data, or it is not finite; nothing was converted, or a rule is invalid; a
            layer does not run; a norm must go and cannot be folded; the folded model computes something else.
    """
    config = config or WhiteningConfig.fast("imagenet")
    batches = _drawn(data, num_batches)
    run = forward or (lambda model, batch: model(batch))
    with attention_split(model, RuleBook(config, rules)):
        return _calibrated(model, batches, config, rules, run, untrained)


def _calibrated(
    model: nn.Module,
    batches: list[Any],
    config: WhiteningConfig,
    rules: Mapping[Any, Rule] | None,
    run: Run,
    untrained: Collection[str],
) -> ConversionReport:
    """The conversion, where attention is split as far as the rules want it."""
    with torch.no_grad(), evaluation(model):
        folds = plan_folds(model, config, rules, lambda module: run(module, batches[0]))
        twin = deepcopy(model)
        convert_to_ndpp(twin, config, folds.rules, lambda module: run(module, batches[0]))
        twin.eval()
        originals = {n: OriginalLayer(n, model, folds.norm_of.get(n), twin) for n, _ in nd_layers(twin)}
        with _referring(twin):
            _prove(twin, folds, originals, lambda: run(twin, batches[0]))
        _fit_layers(twin, originals, batches, run, untrained)
    report = folds.explain(convert_to_ndpp(model, config, folds.rules, lambda module: run(module, batches[0])))
    _take_over(model, twin)
    return report


def _drawn(data: Iterable[Any], num_batches: int) -> list[Any]:
    if num_batches < 1:
        raise ValueError(f"calibrate_ndpp needs num_batches >= 1, got {num_batches}")
    batches = list(islice(data, num_batches))
    if not batches:
        raise ValueError("calibrate_ndpp got no batch: `data` is empty (an iterator that was used up?)")
    return batches


def _prove(twin: nn.Module, folds: Folds, originals: Mapping[str, OriginalLayer], run: Callable[[], Any]) -> None:
    """Proves that layers with their norms folded in, at the places where they are, make the same model."""
    with replaced_outputs(twin, originals):
        after = trace(twin, folds.layers, folds.kept, run)
    refuse_difference(folds.before, after, folds.norm_of.values())


@contextmanager
def _referring(twin: nn.Module) -> Iterator[None]:
    """Lets the layers whose scale comes in by steps refer to the average magnitude of the samples seen inside."""
    layers = {name: layer for name, layer in nd_layers(twin) if layer.scale_ramp is not None}
    sums = {name: torch.zeros(3, dtype=torch.float64, device=layer.weight.device) for name, layer in layers.items()}

    def observe(name: str) -> Callable[..., None]:
        def hook(module: NDLayer, args: tuple[Tensor, ...]) -> None:
            sums[name] += scale_sums(module, args[0])

        return hook

    handles = [layer.register_forward_pre_hook(observe(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if layers:
        total = sum_over_ranks(torch.stack(list(sums.values())))
        for layer, own in zip(layers.values(), total, strict=True):
            layer.scale_ramp.refer_to(average_scale(own).magnitude)  # pyright: ignore[reportOptionalMemberAccess]


def _fit_layers(
    twin: nn.Module,
    originals: Mapping[str, OriginalLayer],
    batches: list[Any],
    run: Run,
    untrained: Collection[str],
) -> None:
    """Estimates the statistics of all layers and fits the parameters of those that are trained."""
    scales = _estimate(twin, originals, batches, run)
    for name, layer in nd_layers(twin):
        if name in untrained:
            continue
        ramp = layer.scale_ramp
        scale = scales[name] if ramp is None else SampleScale(ramp.reference.double(), scales[name].centre)
        error = fit(layer, *originals[name].plain_parameters(), scale)
        if not error <= LARGEST_ERROR:
            raise ValueError(
                f"The weight of {name!r} is off by {error:.1e} (relative) after calibration: D is too ill-conditioned "
                f"for {layer.weight.dtype}. Choose a larger `eps` or the solver 'newton'."
            )


def _estimate(
    twin: nn.Module, stand_ins: Mapping[str, Callable[[Tensor], Tensor]], batches: list[Any], run: Run
) -> dict[str, SampleScale]:
    """Statistics of the inputs of all layers, into their buffers, while stand-ins make their outputs.

    Returns:
        Average scale of the samples, by layer.
    """
    layers = dict(nd_layers(twin))
    sums = {name: torch.zeros(3, dtype=torch.float64, device=layer.weight.device) for name, layer in layers.items()}
    rows: dict[str, float] = {}

    def observe(name: str) -> Callable[..., None]:
        def hook(module: NDLayer, args: tuple[Tensor, ...]) -> None:
            refuse_bad_numbers(name, args[0])
            sums[name] += scale_sums(module, args[0])

        return hook

    def step(model: nn.Module, batch: Any) -> None:
        model.eval()
        for layer in layers.values():
            layer.whitening.train()
        run(model, batch)
        rows.update({name: float(layer.whitening.running_weight) for name, layer in layers.items()})

    handles = [layer.register_forward_pre_hook(observe(name)) for name, layer in layers.items()]
    try:
        with replaced_outputs(twin, stand_ins):
            update_stats(twin, batches, len(batches), step)
    finally:
        for handle in handles:
            handle.remove()
    _refuse_few_rows({name: (rows[name], layer.whitening.running_mean.shape[1]) for name, layer in layers.items()})
    total = sum_over_ranks(torch.stack(list(sums.values())))
    return {name: average_scale(own) for name, own in zip(layers, total, strict=True)}


def _refuse_few_rows(rows: Mapping[str, tuple[float, int]]) -> None:
    few = [f"{name!r} ({count:.0f} rows for {dim} columns)" for name, (count, dim) in rows.items() if count < dim]
    if few:
        raise ValueError(
            f"Too little data to whiten the input of {len(few)} layers: {', '.join(few[:5])}"
            f"{' ...' if len(few) > 5 else ''}. Give more or larger batches or images, choose smaller blocks, or leave "
            "these layers as they are with `rules`."
        )


@torch.no_grad()
def _take_over(model: nn.Module, twin: nn.Module) -> None:
    """Copies parameters and statistics of the ND++ layers; the model's own parameters stay the same objects."""
    for (_, layer), (_, other) in zip(nd_layers(model), nd_layers(twin), strict=True):
        layer.load_state_dict(other.state_dict())
