"""Backbone weights of one framework for another: every key accounted for, the values untouched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ndpp_dense.layers.config import WhiteningConfig
from ndpp_dense.weights.files import WeightFile, write_weights
from ndpp_dense.weights.formats import COUNTERS, WeightFormat, unwrapped
from ndpp_dense.weights.match import COUNTER, Differences, compare, find_model, whitened_layers
from ndpp_dense.weights.table import KeyRow, KeyTable

__all__ = ["Backbone", "read_backbone", "write_backbone"]


@dataclass
class Backbone:
    """Weights by the names of ``create_backbone``, compared with a model's.

    Attributes:
        model: Whose weights they are.
        entries: The weights, classifier included if there is one.
        differences: Between them and the model's.
        source: Their names in the file; those that the file has not are missing.
        facts: Where they are from, as plain values.
        rows: What is already known of keys that are not among the entries.
        notes: What to say of an entry that is not written as it was read.
    """

    model: str
    entries: dict[str, Tensor]
    differences: Differences
    source: dict[str, str]
    facts: dict[str, Any] = field(default_factory=dict)
    rows: list[KeyRow] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)

    def calibrated(
        self, entries: Mapping[str, Tensor], config: WhiteningConfig, rules: Mapping[str, Any] | None = None
    ) -> Backbone:
        """The same backbone with the weights that calibration made of its own.

        Args:
            entries: All weights of the ND++ model.
            config: How it whitens.
            rules: Exceptions, by name or pattern.
        """
        settings = asdict(config) | ({"rules": dict(rules)} if rules else {})
        folded = [KeyRow("dropped", name, "", "folded") for key, name in self.source.items() if key not in entries]
        layers = whitened_layers(entries)
        return Backbone(
            self.model,
            dict(entries),
            compare(entries, self.model),
            {key: name for key, name in self.source.items() if key in entries},
            {**self.facts, "ndpp": settings},
            [*self.rows, *folded],
            {f"{layer}.{parameter}": "calibrated" for layer in layers for parameter in ("weight", "bias")},
        )


def read_backbone(
    file: WeightFile, source: WeightFormat, model: str | None = None, allow: Iterable[str] = ()
) -> Backbone:
    """Takes the backbone's weights out of a file and finds whose they are.

    Args:
        file: The file.
        source: Its format.
        model: One of ``list_backbones()`` or a model of timm's; None takes the one that the file names, or else the
            ResNet or pooling transformer that fits best.
        allow: Patterns of names, the file's or ``create_backbone``'s, that are dropped if there and may be missing.

    Raises:
        ValueError: No name is of that format, there is no model to compare with, or two names mean the same weight.
    """
    entries, patterns = unwrapped(_with_counters(file)), list(allow)
    names = source.backbone_names(entries)
    rows = [KeyRow("dropped", name, "", "outside the backbone") for name in entries if name not in names]
    allowed = {name: _allowed((name, new), patterns) for name, new in names.items()}
    rows += [KeyRow("dropped", name, "", f"--allow {found}") for name, found in allowed.items() if found]
    kept = _inverse({name: new for name, new in names.items() if not allowed[name]})
    values = {new: entries[name] for new, name in kept.items()}
    model = model or _named_model(file)
    found, differences = (model, compare(values, model)) if model else find_model(values)
    missing = [name for name in differences.missing if not _allowed((name,), patterns)]
    differences = Differences(missing, differences.left_over, differences.wrong)
    facts = {"source": file.path.name, "sha256": file.sha256, "model": found, "ndpp": _ndpp_settings(file)}
    return Backbone(found, values, differences, kept, facts, rows)


def write_backbone(backbone: Backbone, target: WeightFormat, path: str | Path, say: Callable[[str], Any]) -> KeyTable:
    """Writes the weights in a framework's format if all of them fit.

    Args:
        backbone: The weights.
        target: The format.
        path: See :func:`ndpp_dense.weights.formats.check_output`.
        say: Called with the table before anything is written.

    Returns:
        The table.

    Raises:
        ValueError: Weights are left over, missing or of another shape, or the framework has no place for them.
    """
    fitting = [name for name in backbone.entries if name not in backbone.differences.left_over]
    names = target.names_of(fitting, backbone.model)
    written = {names[name]: backbone.entries[name] for name in names}
    missing = {name: torch.tensor(0) for name in _missing_counters(written)}
    entries, extras = target.contents(written, missing)
    added = [KeyRow("added", "", name, "0") for name in missing if name in entries]
    table = KeyTable([*backbone.rows, *_rows(backbone, names), *added])
    say(str(table))
    table.check()
    write_weights(path, entries, target.container, {**backbone.facts, "format": target.name}, extras)
    return table


def _inverse(names: Mapping[str, str]) -> dict[str, str]:
    """The file's names by those of ``create_backbone``."""
    found: dict[str, str] = {}
    for name, new in names.items():
        if new in found:
            raise ValueError(f"{found[new]!r} and {name!r} are both {new!r}: drop one with --allow.")
        found[new] = name
    return found


def _rows(backbone: Backbone, names: Mapping[str, str]) -> list[KeyRow]:
    """What becomes of every entry, and of those that there should be."""
    differences, rows = backbone.differences, []
    for name in backbone.entries:
        source, note = backbone.source.get(name, ""), backbone.notes.get(name, "")
        if name in differences.left_over:
            nearest = differences.left_over[name]
            rows.append(KeyRow("left over", source, "", f"nearest: {nearest}" if nearest else ""))
        elif name in differences.wrong:
            rows.append(KeyRow("shape", source, names.get(name, ""), differences.wrong[name]))
        elif name not in names:
            rows.append(KeyRow("dropped", source, "", "classifier"))
        else:
            status = "added" if not source else "matched" if source == names[name] else "renamed"
            rows.append(KeyRow(status, source, names[name], note))
    return rows + [KeyRow("missing", "", name) for name in differences.missing]


def _with_counters(file: WeightFile) -> dict[str, Tensor]:
    counters = file.extras.get(COUNTERS)
    return {**file.entries, **(counters if isinstance(counters, dict) else {})}


def _missing_counters(names: Iterable[str]) -> list[str]:
    """Counts of batches that norms have and older files have not."""
    names = set(names)
    norms = [name.removesuffix(".running_var") for name in sorted(names) if name.endswith(".running_var")]
    return [f"{norm}{COUNTER}" for norm in norms if f"{norm}{COUNTER}" not in names]


def _allowed(names: Iterable[str], patterns: Iterable[str]) -> str | None:
    return next((pattern for pattern in patterns for name in names if fnmatchcase(name, pattern)), None)


def _named_model(file: WeightFile) -> str | None:
    """The model that a file written by this package names: a converted one, or a checkpoint of pretraining."""
    config = file.extras.get("config")
    name = file.facts.get("model") or (config.get("name") if isinstance(config, dict) else None)
    return name if isinstance(name, str) else None


def _ndpp_settings(file: WeightFile) -> dict[str, Any] | None:
    config = file.extras.get("config")
    settings = file.facts.get("ndpp") or (config.get("ndpp") if isinstance(config, dict) else None)
    return settings if isinstance(settings, dict) and whitened_layers(file.entries) else None
