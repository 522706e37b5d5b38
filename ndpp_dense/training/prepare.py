"""From a model as a framework builds it to one that trains with ND++: the same steps under every framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ndpp_dense.conversion.convert import convert_to_ndpp
from ndpp_dense.conversion.norm_pairs import linear_kind
from ndpp_dense.conversion.options import NDPPOptions
from ndpp_dense.conversion.report import ConversionReport
from ndpp_dense.conversion.rules import RuleBook
from ndpp_dense.layers.base import nd_layers
from ndpp_dense.layers.config import WhiteningConfig
from ndpp_dense.layers.model_statistics import freeze_where_weights_are

__all__ = ["fit_momentum", "prepare"]

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
    object.__setattr__(model, "ndpp_report", report)
    object.__setattr__(model, "ndpp_options", fitted)
    return report


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
