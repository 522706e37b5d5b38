"""Which norms go into which layers when a model is calibrated, and the proof that they can."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from ndpp_dense.calibration.trace import TOLERANCE, Trace, trace
from ndpp_dense.calibration.weights import fold_norm, folding_error, is_foldable, normalize
from ndpp_dense.conversion.convert import ConversionReport, convert_to_ndpp
from ndpp_dense.conversion.norm_pairs import is_linear_map
from ndpp_dense.conversion.probe import is_norm
from ndpp_dense.conversion.rules import Rule, RuleBook
from ndpp_dense.layers import WhiteningConfig

__all__ = ["Folds", "OriginalLayer", "plan_folds"]


@dataclass(frozen=True)
class Folds:
    """What calibration is going to do to a model.

    Attributes:
        norm_of: Layer to be converted -> the norm that goes into it.
        layers: All linear layers, those that stay included.
        kept: Norms that stay.
        rules: For ``convert_to_ndpp``: the user's, and a decision on every norm.
        reasons: Norm -> why it goes or stays.
        before: The original model's forward pass.
    """

    norm_of: dict[str, str]
    layers: list[str]
    kept: list[str]
    rules: dict[Any, Rule]
    reasons: dict[str, str]
    before: Trace

    def explain(self, report: ConversionReport) -> ConversionReport:
        """The conversion's report with these reasons for what became of the norms."""
        layer_of = {norm: layer for layer, norm in self.norm_of.items()}
        return ConversionReport(
            [
                replace(record, reason=self.reasons[record.name], stands_in=layer_of.get(record.name, ""))
                if record.name in self.reasons
                else record
                for record in report.records
            ]
        )


class OriginalLayer:
    """Layer and norm of the original model, as one function; its first input proves that they can be folded."""

    def __init__(self, name: str, model: nn.Module, norm_name: str | None, converted: nn.Module) -> None:
        """Takes the parts by name.

        Args:
            name: Of the layer.
            model: The original model, in evaluation mode.
            norm_name: Of its norm, if any.
            converted: The converted model.
        """
        self.name = name
        self.layer = model.get_submodule(name)
        self.norm = None if norm_name is None else model.get_submodule(norm_name)
        self._inside = norm_name is not None and norm_name.startswith(f"{name}.")
        self._rest = None if norm_name is None or self._inside else converted.get_submodule(norm_name)
        self._proven = self.norm is None

    def plain_parameters(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one plain layer that does this, in float64."""
        return fold_norm(self.layer, self.norm)

    def __call__(self, x: Tensor) -> Tensor:
        """Layer and norm on ``x``; raises ValueError where one plain layer could not do the same."""
        if not self._proven and x.numel():
            error = folding_error(self.layer, self.norm, self._rest, x)  # type: ignore[arg-type]
            if not error <= TOLERANCE:
                raise ValueError(
                    f"{self.name!r} and its norm ({type(self.norm).__name__}) cannot be folded: the folded layer is "
                    f"off by {error:.1e} (relative; {TOLERANCE:.0e} is allowed). Is one of them of an unusual kind? "
                    f"Leave it as it is: rules={{{self.name!r}: False}}."
                )
            self._proven = True
        y = self.layer(x)
        return y if self.norm is None or self._inside else normalize(self.norm, y)


def plan_folds(
    model: nn.Module, config: WhiteningConfig, rules: Mapping[Any, Rule] | None, run: Callable[[nn.Module], Any]
) -> Folds:
    """Watches a forward pass and decides on every norm: into the layer that it follows, or it stays.

    Args:
        model: In evaluation mode; left as it is.
        config: As for ``convert_to_ndpp``.
        rules: Likewise.
        run: Runs a model on one batch; returns its output.

    Raises:
        ValueError: A layer to be converted does not run or shares its parameters, or a norm must go and cannot.
    """
    dry = convert_to_ndpp(deepcopy(model), config, rules, run)  # conversion may set weights to zero
    norms = [r.name for r in dry.records if r.action in ("dropped", "kept") and is_norm(model.get_submodule(r.name))]
    _refuse_shared_parameters(model, dry.converted)
    layers = [*dry.converted, *(name for name in dry.left if is_linear_map(model.get_submodule(name)))]
    before = trace(model, layers, norms, lambda: run(model))
    _refuse_idle(before, dry.converted)
    book = RuleBook(config, rules)
    norm_of: dict[str, str] = {}
    decisions: dict[str, bool] = {}
    reasons: dict[str, str] = {}
    for norm in norms:
        layer, reason = _layer_for(norm, model, before, dry.converted, book)
        decisions[norm], reasons[norm] = layer is not None, reason
        if layer is not None:
            norm_of[layer] = norm
    kept = [norm for norm in norms if not decisions[norm]]
    return Folds(norm_of, layers, kept, {**(rules or {}), **decisions}, reasons, before)


def _layer_for(
    name: str, model: nn.Module, before: Trace, converted: list[str], book: RuleBook
) -> tuple[str | None, str]:
    """The layer that a norm goes into, or None if it stays, and why."""
    norm = model.get_submodule(name)
    layer = before.layer_before(name)
    rule = book.lookup(name)
    if rule is not None and rule[0] is False:
        return None, rule[1]
    if name not in before.sources:
        reason = "does not run"
    elif layer is None or layer not in converted:
        reason = "its input is not the output of one converted layer"
    elif not is_foldable(norm):
        reason = f"a {type(norm).__name__} of this kind cannot be folded"
    else:
        return layer, f"folded into {layer!r}"
    parent = name.rpartition(".")[0]
    if parent in converted:
        raise ValueError(
            f"The norm {name!r} ({type(norm).__name__}) is part of a layer to be converted, and cannot be folded into "
            f"it ({reason}). Leave the layer as it is: rules={{{parent!r}: False}}, or a pattern for all like it."
        )
    if book.exact.get(name) is True:
        raise ValueError(f"A rule drops the norm {name!r}, which would change the model's outputs: {reason}.")
    return None, reason


def _refuse_idle(before: Trace, converted: list[str]) -> None:
    idle = [name for name in converted if not before.calls[name]]
    if idle:
        raise ValueError(
            f"Layers to be converted that do not run on the first batch: {_some(idle)}. Give a `forward` that reaches "
            "them (auxiliary heads run with the loss only), or leave them out with `rules`."
        )


def _refuse_shared_parameters(model: nn.Module, converted: list[str]) -> None:
    """Each converted layer gets a weight of its own D, which a weight in two places cannot be."""
    owners: dict[int, list[str]] = defaultdict(list)
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)].append(name)
    for names in owners.values():
        if len(names) > 1 and set(names) & set(converted):
            raise ValueError(
                f"The layers {_some(names)} share a parameter, which cannot suit the statistics of each. Leave them as "
                f"they are: rules={ {name: False for name in names if name in converted} }."
            )


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:10])) + (" ..." if len(names) > 10 else "")
