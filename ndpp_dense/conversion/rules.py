"""Which layers are converted, and with what: exact names, then patterns, then types."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from ndpp_dense.layers.config import WhiteningConfig

__all__ = ["ATTENTION", "LEFT_BY_DEFAULT", "LINEAR_TYPES", "Rule", "RuleBook"]

Rule = WhiteningConfig | Mapping[str, Any] | bool
LINEAR_TYPES: dict[str, type[nn.Module]] = {
    "Conv1d": nn.Conv1d,
    "Conv2d": nn.Conv2d,
    "Conv3d": nn.Conv3d,
    "ConvTranspose1d": nn.ConvTranspose1d,
    "ConvTranspose2d": nn.ConvTranspose2d,
    "ConvTranspose3d": nn.ConvTranspose3d,
    "Linear": nn.Linear,
}
ATTENTION = "MultiheadAttention"

_PREDICTION = "prediction layer: its output is read as it is"
_SHARED = "runs at several sizes, as once per pyramid level: levels would mix their statistics"
LEFT_BY_DEFAULT = {  # names of Detectron2, torchvision and MMSegmentation
    **dict.fromkeys(
        ("objectness_logits", "anchor_deltas", "cls_score", "cls_logits", "bbox_pred", "bbox_reg")
        + ("ctrness", "bbox_ctrness", "score_lowres", "kps_score_lowres", "predictor", "mask_fcn_logits")
        + ("classification_head.module_list.?", "regression_head.module_list.?")  # SSD
        + ("classification_head.module_list.?.1", "regression_head.module_list.?.1")  # SSDlite
        + ("conv_seg", "*_conv_seg", "*_cls_seg", "fc_seg", "cls_embed", "class_embed")
        + ("low_classifier", "high_classifier"),  # LR-ASPP
        _PREDICTION,
    ),
    **dict.fromkeys(
        ("rpn_head.conv", "rpn_head.conv.*", "rpn.head.conv.*", "cls_subnet.*", "bbox_subnet.*")
        + ("classification_head.conv.*", "regression_head.conv.*"),
        _SHARED,
    ),
}
_LEFT_CONVOLUTION = "classifier.4"  # of torchvision's segmentors, aux_ or not; a linear layer in AlexNet


class RuleBook:
    """Answers for every layer name: convert with which configuration, or leave it and why."""

    def __init__(self, config: WhiteningConfig, rules: Mapping[Any, Rule] | None) -> None:
        """Sorts the rules.

        Args:
            config: Default configuration.
            rules: Keys: a layer's name; a pattern with ``*``, ``?`` or ``[...]``; or a type (``nn.Linear``) or its name
                (``"Linear"``). Values: True (convert), False (leave), a mapping of configuration fields to override, or
                a whole ``WhiteningConfig``. For a norm, True drops it and False keeps it. For an
                ``nn.MultiheadAttention``, True splits its projections into layers, which have rules of their own.

        Raises:
            ValueError: A value is none of these, or a field is unknown.
        """
        if not isinstance(rules, Mapping | None):
            raise ValueError(f"rules = {rules!r:.60} is no mapping. For example: rules={{'*.stem.*': False}}.")
        self.config = config
        self.exact: dict[str, Rule] = {}
        self.patterns: dict[str, Rule] = {}
        self.types: dict[str, Rule] = {}
        for key, value in (rules or {}).items():
            name = key.__name__ if isinstance(key, type) else str(key)
            self._checked(name, value)
            if name in LINEAR_TYPES or name == ATTENTION:
                self.types[name] = value
            elif any(c in name for c in "*?["):
                self.patterns[name] = value
            else:
                self.exact[name] = value

    def lookup(self, name: str) -> tuple[Rule, str] | None:
        """The user's rule for a name (exact, then pattern) and how it reads in the report."""
        if name in self.exact:
            return self.exact[name], f"rule {name!r}"
        for pattern, value in self.patterns.items():
            if fnmatchcase(name, pattern):
                return value, f"rule {pattern!r}"
        return None

    def decide(self, name: str, kind: str, shared: bool = False) -> tuple[WhiteningConfig | None, str]:
        """Configuration to convert with, or None to leave; and the reason.

        Args:
            name: A linear layer's name.
            kind: Its type: a key of ``LINEAR_TYPES``.
            shared: Whether it runs at several sizes in one forward pass, as a tower on all levels of a pyramid does.
        """
        found = self.lookup(name)
        if found is None:
            if shared:
                return None, _SHARED
            for pattern, reason in LEFT_BY_DEFAULT.items():
                if fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}"):
                    return None, reason
            if kind == "Conv2d" and name.endswith(_LEFT_CONVOLUTION):
                return None, _PREDICTION
            found = (self.types[kind], f"type {kind}") if kind in self.types else (True, "default")
        value, reason = found
        if isinstance(value, bool):
            return (self.config, reason) if value else (None, reason)
        return (value, reason) if isinstance(value, WhiteningConfig) else (self.config.override(value), reason)

    def splits(self, name: str) -> bool:
        """Whether the projections of an ``nn.MultiheadAttention`` are to become layers of their own.

        Raises:
            ValueError: The rule says more than that.
        """
        value, key = self.lookup(name) or (self.types.get(ATTENTION, False), f"rule {ATTENTION!r}")
        if not isinstance(value, bool):
            raise ValueError(
                f"The {key} has the value {value!r:.60} for attention {name!r}. Choices: True (split its projections "
                f"into layers), False (leave it). The layers have rules of their own: '{name}.q_proj'."
            )
        return value

    def check_used(self, names: list[str]) -> None:
        """Refuses rules that fit no layer.

        Raises:
            ValueError: Names the rules and the nearest layer names.
        """
        idle = [name for name in self.exact if name not in names]
        idle += [p for p in self.patterns if not any(fnmatchcase(name, p) for name in names)]
        if idle:
            near = get_close_matches(idle[0], names, n=3, cutoff=0.3)
            raise ValueError(
                f"Rules that match no linear, norm or attention layer of the model: {', '.join(map(repr, idle))}. "
                f"Nearest to {idle[0]!r}: {', '.join(map(repr, near or names[:5]))}."
            )

    def _checked(self, name: str, value: Rule) -> None:
        if isinstance(value, Mapping):
            self.config.override(value)
        elif not isinstance(value, bool | WhiteningConfig):
            raise ValueError(
                f"Rule {name!r} has the value {value!r}. Choices: True (convert), False (leave), a mapping of "
                "WhiteningConfig fields to override, or a WhiteningConfig."
            )
