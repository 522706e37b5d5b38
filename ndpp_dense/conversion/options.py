"""Reading the ``ndpp`` section of a config: the same keys under every framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any, TypeVar

from ndpp_dense.layers.config import WhiteningConfig, preset

__all__ = ["FIELDS", "OPTIONS", "NDPPOptions", "read_options", "whitening_config"]

FIELDS = tuple(entry.name for entry in fields(WhiteningConfig))
OPTIONS = ("preset", "task", "rules", "verify", *FIELDS)
Options = TypeVar("Options", bound="NDPPOptions")


@dataclass(frozen=True)
class NDPPOptions:
    """What the ``ndpp`` section of a model says.

    Attributes:
        config: How to whiten.
        rules: Exceptions by layer name, pattern or type, as ``convert_to_ndpp`` takes them.
        verify: Whether to prove on a blank image that every converted layer runs.
        fits_momentum: Whether the momentum follows the batch size: the section names none.
    """

    config: WhiteningConfig
    rules: dict[str, Any] = field(default_factory=dict)
    verify: bool = True
    fits_momentum: bool = False

    def for_batch(self: Options, batch_size: int) -> Options:
        """The options with the momentum for so many images a step, unless one is named.

        Args:
            batch_size: See :meth:`ndpp_dense.WhiteningConfig.for_batch`.
        """
        if not self.fits_momentum:
            return self
        return replace(self, config=self.config.for_batch(batch_size), fits_momentum=False)


def read_options(values: Mapping[str, Any] | None, task: str, also: Sequence[str] = ()) -> NDPPOptions:
    """Reads an ``ndpp`` section.

    Args:
        values: ``preset``, ``task``, ``rules``, ``verify`` and any field of ``WhiteningConfig``; a field that is None
            is as the preset has it. None stands for an empty section.
        task: The task where none is named.
        also: Further keys, which the caller reads.

    Raises:
        ValueError: An unknown key (the nearest is named) or an invalid value.
    """
    values = dict(values or {})
    known = (*also, *OPTIONS)
    unknown = [str(name) for name in values if name not in known]
    if unknown:
        near = get_close_matches(unknown[0], known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"The ndpp settings have no key {unknown[0]!r}.{hint} Keys: {', '.join(known)}.")
    rules = values.get("rules") or {}
    rules = {name: dict(rule) if isinstance(rule, Mapping) else rule for name, rule in rules.items()}
    fits_momentum = values.get("momentum") is None
    return NDPPOptions(whitening_config(values, task), rules, values.get("verify", True), fits_momentum)


def whitening_config(values: Mapping[str, Any], task: str) -> WhiteningConfig:
    """The preset that ``preset`` and ``task`` name (``fast`` where none is), with the fields that are set.

    Args:
        values: Other keys than these and the fields are passed over.
        task: The task where none is named.

    Raises:
        ValueError: Unknown preset or task, or an invalid value.
    """
    chosen = {name: values[name] for name in FIELDS if values.get(name) is not None}
    return preset(values.get("preset", "fast"), values.get("task", task)).override(chosen)
