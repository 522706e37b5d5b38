"""From a model as a framework builds it to one that trains with ND++: the same steps under every framework."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from ndpp_dense.conversion.convert import ExampleError, convert_to_ndpp
from ndpp_dense.conversion.examples import Example
from ndpp_dense.conversion.norm_pairs import linear_kind
from ndpp_dense.conversion.options import NDPPOptions
from ndpp_dense.conversion.report import ConversionReport, shortened
from ndpp_dense.conversion.rules import RuleBook
from ndpp_dense.layers.base import nd_layers
from ndpp_dense.layers.config import WhiteningConfig
from ndpp_dense.layers.model_statistics import freeze_where_weights_are

__all__ = ["fit_momentum", "prepare"]

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
    object.__setattr__(model, "ndpp_report", report)
    object.__setattr__(model, "ndpp_options", fitted)
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
