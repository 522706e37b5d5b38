"""From a model as a framework builds it to one that trains with ND++: the same steps under every framework."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from typing import Any

from torch import nn

from ndpp_dense.calibration.calibrate import calibrate_ndpp
from ndpp_dense.conversion.convert import convert_to_ndpp
from ndpp_dense.conversion.norm_pairs import linear_kind
from ndpp_dense.conversion.options import NDPPOptions
from ndpp_dense.conversion.report import ConversionReport
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
    "told",
]

NORM_RULES = "ndpp_norm_rules"  # of a checkpoint: what calibration decided on norms
Convert = Callable[[nn.Module, WhiteningConfig, Mapping[Any, Any]], ConversionReport]


def prepare(
    model: nn.Module,
    options: NDPPOptions,
    *,
    batch_size: int | None = None,
    convert: Convert = convert_to_ndpp,
    start_at_zero: Callable[[nn.Module], None] | None = None,
    dry_run: Callable[[ConversionReport], None] | None = None,
) -> ConversionReport:
    """Makes a newly built model an ND++ model, in place, before weights, optimizer and DistributedDataParallel.

    In this order: the momentum for the batch, conversion, statistics frozen where weights are, residual branches at
    zero, proof that every converted layer runs.

    Args:
        model: As the framework builds it.
        options: What its config says.
        batch_size: Images of an optimizer step over all ranks; None where that is known later, see
            :func:`fit_momentum`.
        convert: What converts; a framework that initialises later follows what conversion does to norms.
        start_at_zero: Starts residual branches at zero where the framework does not by itself.
        dry_run: Runs the model by ``report.verify`` on something blank; not called where the options say so.

    Returns:
        The report, which the model has as ``ndpp_report`` too, beside its ``ndpp_options``.

    Raises:
        ValueError: The options do not fit the model.
        RuntimeError: A converted layer does not run.
    """
    fitted = options if batch_size is None else options.for_batch(batch_size)
    report = convert(model, fitted.config, fitted.rules)
    freeze_where_weights_are(model)
    if start_at_zero is not None:
        start_at_zero(model)
    if fitted.verify and dry_run is not None:
        dry_run(report)
    _note(model, report, fitted)
    return report


def prepare_from_trained(
    model: nn.Module,
    options: NDPPOptions,
    batches: Sequence[Any],
    *,
    forward: Callable[[nn.Module, Any], Any],
    untrained: Collection[str] = (),
    batch_size: int | None = None,
    convert: Convert = convert_to_ndpp,
) -> ConversionReport:
    """Makes a model with trained weights an ND++ model that computes the same, in place, before the optimizer.

    Args:
        model: A plain model, its weights loaded.
        options: What its config says.
        batches: Of training data; in a distributed run as many on every rank.
        forward: As :func:`ndpp_dense.calibrate_ndpp` takes it; reaches every layer to be converted.
        untrained: Names of layers that no file gave weights for.
        batch_size: As for :func:`prepare`.
        convert: As for :func:`prepare`; it says what conversion alone would do with the norms.

    Returns:
        The report, which the model has too, as after :func:`prepare`, beside :func:`norm_decisions`.

    Raises:
        ValueError: See :func:`ndpp_dense.calibrate_ndpp`.
    """
    fitted = options if batch_size is None else options.for_batch(batch_size)
    by_itself = convert(deepcopy(model), fitted.config, fitted.rules)
    report = calibrate_ndpp(model, batches, fitted.config, fitted.rules, len(batches), forward, untrained)
    freeze_where_weights_are(model)
    _note(model, report, fitted)
    alone = set(by_itself.dropped_norms)
    decisions = {name: True for name in report.dropped_norms if name not in alone}
    decisions |= {record.name: False for record in report.records if record.action == "kept" and record.name in alone}
    note_norm_decisions(model, decisions)
    return report


def norm_decisions(model: nn.Module) -> dict[str, bool] | None:
    """Rules by which conversion alone makes the structure of a calibrated model; None where it is not calibrated.

    They name the norms that calibration keeps and conversion would drop (False), and the reverse (True).
    """
    return getattr(model, "ndpp_norm_decisions", None)


def note_norm_decisions(model: nn.Module, decisions: Mapping[str, bool]) -> None:
    """Lets :func:`norm_decisions` return these: those of the checkpoint that the model was built for."""
    object.__setattr__(model, "ndpp_norm_decisions", dict(decisions))


def told(report: ConversionReport, untrained: Collection[str], images: int, seconds: float) -> str:
    """One line on a calibration.

    Args:
        report: What :func:`prepare_from_trained` returned.
        untrained: As it was called with.
        images: On all ranks.
        seconds: That it took.
    """
    kept = [record.name for record in report.records if record.action == "kept"]
    new = sorted(set(untrained) & set(report.converted))
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
