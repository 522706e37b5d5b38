"""Reading the ``ndpp`` dictionary of a config, which says besides what to build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ndpp_dense.conversion import options
from ndpp_dense.layers.config import WhiteningConfig

__all__ = ["SegmentorOptions", "read_options", "split_whitening"]

_TASK = "cityscapes"
_OWN = ("architecture", "calibrate", "calibrate_batches")


@dataclass(frozen=True)
class SegmentorOptions(options.NDPPOptions):
    """What the ``ndpp`` dictionary of a model says.

    Attributes:
        architecture: Type of the model that is built and converted.
        calibrate: Whether a run starts as ND++ with the function of the weights that its config names.
        calibrate_batches: Of training data, for its statistics.
    """

    architecture: str = "EncoderDecoder"
    calibrate: bool = False
    calibrate_batches: int = 20


def read_options(values: Mapping[str, Any] | None) -> SegmentorOptions:
    """Reads an ``ndpp`` dictionary.

    Args:
        values: ``architecture`` and what :func:`ndpp_dense.conversion.options.read_options` takes; where no task is
            named, it is ``cityscapes``.

    Raises:
        ValueError: An unknown key (the nearest is named) or an invalid value.
    """
    read = options.read_options(values, _TASK, also=_OWN)
    own = {name: values[name] for name in _OWN if name in (values or {})} if values else {}
    batches = own.get("calibrate_batches", 1)
    if not isinstance(batches, int) or isinstance(batches, bool) or batches < 1:
        raise ValueError(f"The ndpp settings have calibrate_batches = {batches!r}, it must be a whole number >= 1.")
    return SegmentorOptions(read.config, read.rules, read.verify, read.fits_momentum, **own)


def split_whitening(values: Mapping[str, Any]) -> tuple[WhiteningConfig, dict[str, Any]]:
    """Parts a layer's config dictionary into how to whiten and the rest, which the plain layer takes."""
    rest = {name: value for name, value in values.items() if name not in (*options.FIELDS, "preset", "task")}
    return options.whitening_config(values, _TASK), rest
