"""Reading the ``ndpp`` dictionary of a config, which says besides what to build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ndpp_dense.conversion import options
from ndpp_dense.layers.config import WhiteningConfig

__all__ = ["SegmentorOptions", "read_options", "split_whitening"]

_TASK = "cityscapes"


@dataclass(frozen=True)
class SegmentorOptions(options.NDPPOptions):
    """What the ``ndpp`` dictionary of a model says.

    Attributes:
        architecture: Type of the model that is built and converted.
    """

    architecture: str = "EncoderDecoder"


def read_options(values: Mapping[str, Any] | None) -> SegmentorOptions:
    """Reads an ``ndpp`` dictionary.

    Args:
        values: ``architecture`` and what :func:`ndpp_dense.conversion.options.read_options` takes; where no task is
            named, it is ``cityscapes``.

    Raises:
        ValueError: An unknown key (the nearest is named) or an invalid value.
    """
    read = options.read_options(values, _TASK, also=("architecture",))
    architecture = (values or {}).get("architecture", SegmentorOptions.architecture)
    return SegmentorOptions(read.config, read.rules, read.verify, read.fits_momentum, architecture)


def split_whitening(values: Mapping[str, Any]) -> tuple[WhiteningConfig, dict[str, Any]]:
    """Parts a layer's config dictionary into how to whiten and the rest, which the plain layer takes."""
    rest = {name: value for name, value in values.items() if name not in (*options.FIELDS, "preset", "task")}
    return options.whitening_config(values, _TASK), rest
