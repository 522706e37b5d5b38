"""From a model as a framework builds it to one that trains with ND++: the same steps under every framework."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ndpp_dense.calibration.calibrate import calibrate_ndpp
from ndpp_dense.conversion.convert import ExampleError, convert_to_ndpp
from ndpp_dense.conversion.examples import Example
from ndpp_dense.conversion.norm_pairs import linear_kind
from ndpp_dense.conversion.options import NDPPOptions
from ndpp_dense.conversion.report import ConversionReport, shortened
from ndpp_dense.conversion.rules import RuleBook
from ndpp_dense.layers.base import nd_layers
from ndpp_dense.layers.config import WhiteningConfig
from ndpp_dense.layers.model_statistics import freeze_where_weights_are

__all__ = [
    "NORM_RULES",
    "fit_momentum",
    "norm_decisions",
    "note_norm_decisions",
    "prepare",
    "prepare_from_trained",
    "refuse_weights",
    "told",
]

NORM_RULES = "ndpp_norm_rules"  # of a checkpoint: what calibration decided on norms
Convert = Callable[[nn.Module, WhiteningConfig, Mapping[Any, Any], Example | None], ConversionReport]
_log = logging.getLogger(__name__)
_SWITCH = "`verify: False` in the ndpp settings (`VERIFY` in Detectron2's) skips this check"


def prepare(
    model: nn.Module,
    options: NDPPOptions,
    *,
    batch_size: int | None = None,
    convert: Convert = convert_to_ndpp,
    start_at_zero: Callable[[nn.Module], None] | None = None,
    example: Callable[[nn.Module], Any] | None = None,
) -> ConversionReport:
    """Makes a newly built model an ND++ model, in place, before weights, optimizer and DistributedDataParallel.

    In this order: the momentum for the batch, conversion, statistics frozen where weights are, residual branches at
    zero, proof that converted layers run wherever the plain ones did.

    Args:
        model: As the framework builds it.
        options: What its config says.
        batch_size: Images of an optimizer step over all ranks; None where that is known later, see
            :func:`fit_momentum`.
        convert: What converts; a framework that initialises later follows what conversion does to norms.
        start_at_zero: Starts residual branches at zero where the framework does not by itself.
        example: Runs the model on something blank, before conversion and after it; not called where the options say so.
            If the model does not run on it, that is logged, and conversion goes by what it can guess.

    Returns:
        The report, which the model has as ``ndpp_report`` too, beside its ``ndpp_options``.

    Raises:
        ValueError: The options do not fit the model.
        RuntimeError: A converted layer does not run, and the plain one did.
    """
    fitted = options if batch_size is None else options.for_batch(batch_size)
    run = example if fitted.verify else None
    report = _converted(model, fitted, convert, run)
    freeze_where_weights_are(model)
    if start_at_zero is not None:
        start_at_zero(model)
    if run is not None and report.ran:
        _prove(model, report, run)
    _note(model, report, fitted)
    return report


def _converted(
    model: nn.Module, options: NDPPOptions, convert: Convert, run: Callable[[nn.Module], Any] | None
) -> ConversionReport:
    try:
        return convert(model, options.config, options.rules, run)
    except ExampleError as error:
        _log.warning("Nothing proves that converted layers run. %s. It may train all the same; %s.", error, _SWITCH)
        report = convert(model, options.config, options.rules, None)
        return replace(report, ran=frozenset())  # by a guess: not what the example would have shown


def _prove(model: nn.Module, report: ConversionReport, run: Callable[[nn.Module], Any]) -> None:
    """Refuses a model in which a plain layer still runs; speaks of layers that the example has never reached."""
    idle, _ = report.idle(model, run)
    plain = [name for name in idle if name in report.ran]
    if plain:
        raise RuntimeError(
            f"{len(plain)} converted layers do not run where the plain ones ran before: {shortened(plain)}. Check how "
            f"the model holds them, or leave them out by a rule ({plain[0]!r}: False); {_SWITCH}."
        )
    if idle:
        _log.warning(
            "A blank input does not reach %d converted layers, of which nothing is proven: %s. Heads that only train "
            "are such; %s.",
            *(len(idle), shortened(idle), _SWITCH),
        )


def prepare_from_trained(
    model: nn.Module,
    options: NDPPOptions,
    batches: Sequence[Any],
    *,
    forward: Callable[[nn.Module, Any], Any],
    untrained: Collection[str] = (),
    batch_size: int | None = None,
) -> ConversionReport:
    """Makes a model with trained weights an ND++ model that computes the same, in place, before the optimizer.

    Args:
        model: A plain model, its weights loaded.
        options: What its config says.
        batches: Of training data; in a distributed run as many on every rank.
        forward: As :func:`ndpp_dense.calibrate_ndpp` takes it; reaches every layer to be converted.
        untrained: Names of layers that no file gave weights for.
        batch_size: As for :func:`prepare`.

    Returns:
        The report, which the model has too, as after :func:`prepare`, beside :func:`norm_decisions`.

    Raises:
        ValueError: See :func:`ndpp_dense.calibrate_ndpp`.
    """
    fitted = options if batch_size is None else options.for_batch(batch_size)
    report = calibrate_ndpp(model, batches, fitted.config, fitted.rules, len(batches), forward, untrained)
    freeze_where_weights_are(model)
    _note(model, report, fitted)
    norms = [record for record in report.records if record.action in ("dropped", "kept")]
    note_norm_decisions(model, {record.name: record.action == "dropped" for record in norms})
    return report


def norm_decisions(model: nn.Module) -> dict[str, bool] | None:
    """Rules by which conversion alone makes the structure of a calibrated model; None where it is not calibrated.

    They name every norm: True for one that is gone, False for one that stays.
    """
    return getattr(model, "ndpp_norm_decisions", None)


def note_norm_decisions(model: nn.Module, decisions: Mapping[str, bool]) -> None:
    """Lets :func:`norm_decisions` return these: those of the checkpoint that the model was built for."""
    object.__setattr__(model, "ndpp_norm_decisions", dict(decisions))


def refuse_weights(model: nn.Module, unmatched: Collection[str], source: str) -> None:
    """Refuses weights that a network cannot be calibrated from.

    Args:
        model: The plain model, loaded.
        unmatched: Entries of its state that the weights do not have.
        source: What to call the weights.

    Raises:
        ValueError: Norms are there without running statistics, or a value is not finite.
    """
    lost = set(unmatched)
    norms = [n.removesuffix(".running_var") for n in sorted(lost) if n.endswith(".running_var")]
    half = [norm for norm in norms if f"{norm}.weight" in model.state_dict() and f"{norm}.weight" not in lost]
    if half:
        raise ValueError(
            f"{source} has {len(half)} norms without running statistics, the first {half[0]!r}: of group norm? "
            "Calibration folds batch norms. Give the weights of a network with these, or train without --calibrate."
        )
    bad = [
        n for n, v in model.state_dict().items() if v.is_floating_point() and n not in lost and not v.isfinite().all()
    ]
    if bad:
        raise ValueError(
            f"{source} holds NaN or infinity in {len(bad)} weights, the first {bad[0]!r}: give an earlier checkpoint."
        )


def told(report: ConversionReport, untrained: Collection[str], images: int, seconds: float) -> str:
    """One line on a calibration.

    Args:
        report: What :func:`prepare_from_trained` returned.
        untrained: As it was called with.
        images: On all ranks.
        seconds: That it took.
    """
    kept = [record.name for record in report.records if record.action == "kept"]
    new = sorted(set(untrained) & {*report.converted, *report.left})
    return (
        f"Calibrated on {images} images in {seconds:.0f} s: {len(report.dropped_norms)} norms folded, {len(kept)} kept"
        f"{_first(kept)}; {len(new)} layers start anew{_first(new)}."
    )


def _first(names: list[str]) -> str:
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""


def _note(model: nn.Module, report: ConversionReport, options: NDPPOptions) -> None:
    object.__setattr__(model, "ndpp_report", report)
    object.__setattr__(model, "ndpp_options", options)


def fit_momentum(model: nn.Module, batch_size: int) -> float | None:
    """Gives a prepared model the momentum for its batch, as :func:`prepare` does where the batch is known by then.

    Layers for which a rule names a momentum keep it. Calling it again, with the same batch or another, is safe.

    Args:
        model: The prepared model itself, not DistributedDataParallel.
        batch_size: Images of an optimizer step over all ranks, >= 1.

    Returns:
        The momentum of layers without a rule; None where nothing is to be fitted, because the model is not prepared,
        its options name a momentum, or it was prepared for a batch.
    """
    options, report = getattr(model, "ndpp_options", None), getattr(model, "ndpp_report", None)
    if options is None or report is None or not options.fits_momentum:
        return None
    fitted = options.for_batch(batch_size)
    book, converted = RuleBook(fitted.config, fitted.rules), set(report.converted)
    for name, layer in nd_layers(model):
        config, _ = book.decide(name, linear_kind(layer) or "")
        if name in converted and config is not None:
            layer.set_momentum(config.momentum)
    return fitted.config.momentum
