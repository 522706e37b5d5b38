"""Names of a ResNet's weights: torchvision's, which every other part of this package uses, and Detectron2's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ndpp_dense.weights.formats import COUNTERS, WeightFormat, renamed
from ndpp_dense.weights.match import COUNTER

__all__ = ["DETECTRON2", "from_detectron2", "to_detectron2"]

_RGB = "INPUT.FORMAT RGB MODEL.PIXEL_MEAN '[123.675,116.28,103.53]' MODEL.PIXEL_STD '[58.395,57.12,57.375]'"
# Torchvision's name, Detectron2's; longer ones first. Of a hybrid's downsampling block the norm is one level deeper.
_STEM = [("conv1", "stem.conv1"), ("bn1", "stem.conv1.norm"), ("fc", "linear")]
_BLOCK = [
    ("downsample.0", "shortcut"),
    ("downsample.1", "shortcut.norm"),
    *((f"conv{index}", f"conv{index}") for index in (1, 2, 3)),
    *((f"bn{index}", f"conv{index}.norm") for index in (1, 2, 3)),
]
_CANONICAL_BLOCK = re.compile(r"layer(?P<stage>[1-4])\.(?P<index>\d+)\.(?P<part>downsample\.[01]|conv[123]|bn[123])\.")
_DETECTRON2_BLOCK = re.compile(
    r"res(?P<stage>[2-5])\.(?P<index>\d+)\.(?P<part>conv2\.conv\.norm|(?:shortcut|conv[123])(?:\.norm)?)\."
)


def to_detectron2(state: Mapping[str, Any]) -> dict[str, Any]:
    """Renames the weights of a classifier for Detectron2's ``ResNet``.

    Args:
        state: Names as in torchvision's and timm's ResNet, with or without norms (ND++) and classifier. Values are
            passed on.

    Returns:
        The same values in the same order.

    Raises:
        ValueError: Names that Detectron2's ResNet has no place for.
    """
    deeper = {name.partition(".conv2.conv.")[0] for name in state if ".conv2.conv.weight" in name}
    return _renamed(state, lambda name: _to_detectron2(name, deeper), "torchvision", "Detectron2")


def from_detectron2(state: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`to_detectron2`.

    Args:
        state: Names as in Detectron2's ``ResNet`` (without ``backbone.bottom_up.``).

    Returns:
        The same values in the same order.

    Raises:
        ValueError: Names that torchvision's ResNet has no place for.
    """
    return _renamed(state, _from_detectron2, "Detectron2", "torchvision")


def _to_detectron2(name: str, deeper: set[str]) -> str | None:
    match = _CANONICAL_BLOCK.match(name)
    if match is None:
        return _stem_name(name, _STEM)
    block, part = name[: match.start("part") - 1], dict(_BLOCK)[match["part"]]
    if match["part"] == "bn2" and block in deeper:
        part = "conv2.conv.norm"
    return f"res{int(match['stage']) + 1}.{match['index']}.{part}.{name[match.end() :]}"


def _from_detectron2(name: str) -> str | None:
    match = _DETECTRON2_BLOCK.match(name)
    if match is None:
        return _stem_name(name, [(theirs, ours) for ours, theirs in reversed(_STEM)])
    part = {theirs: ours for ours, theirs in _BLOCK}[match["part"].replace("conv2.conv.norm", "conv2.norm")]
    return f"layer{int(match['stage']) - 1}.{match['index']}.{part}.{name[match.end() :]}"


def _stem_name(name: str, pairs: list[tuple[str, str]]) -> str | None:
    rest = {old: name.removeprefix(f"{old}.") for old, _ in pairs if name.startswith(f"{old}.")}
    found = max(rest, key=len, default=None)
    # A deep stem has three convolutions, numbered; Detectron2 has none such.
    if found is None or rest[found][0].isdigit():
        return None
    return f"{dict(pairs)[found]}.{rest[found]}"


def _renamed(state: Mapping[str, Any], rename: Any, source: str, target: str) -> dict[str, Any]:
    names = {name: rename(name) for name in state}
    unknown = [name for name, new in names.items() if new is None]
    if unknown:
        raise ValueError(
            f"{target}'s ResNet has no place for {len(unknown)} of {len(names)} weights: {', '.join(unknown[:5])}. "
            f"Names must be those of {source}'s ResNet with a single-convolution stem, without a prefix."
        )
    return {names[name]: value for name, value in state.items()}


class _Detectron2(WeightFormat):
    name, title = "detectron2", "Detectron2"
    container = "model"
    prefixes = ("backbone.bottom_up.", "bottom_up.", "backbone.")
    sign = re.compile(r"(?:backbone\.)?(?:bottom_up\.)?(?:stem\.conv1\.|res[2-5]\.\d)")

    def renaming(self, names: Iterable[str]) -> Callable[[str], str | None]:
        return lambda name: renamed(from_detectron2, name)

    def target_names(self, names: Iterable[str], model: str) -> dict[str, str]:
        return {old: new for new, old in to_detectron2({name: name for name in names}).items()}

    def contents(
        self, entries: dict[str, Tensor], counters: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        # Matched by the ends of names, with and without a feature pyramid above the backbone.
        beside = {name: value for name, value in entries.items() if name.endswith(COUNTER)}
        extras = {"__author__": "ndpp_dense", "matching_heuristics": True, COUNTERS: beside}
        return {name: value for name, value in entries.items() if name not in beside}, extras

    def usage(self, path: str | Path, pattern: str | None, config: str, source: WeightFormat) -> list[str]:
        settings = ["MODEL.RESNETS.STRIDE_IN_1X1 False"]
        if pattern:
            settings.append(f"MODEL.BACKBONE.NAME build_pooling_resnet_fpn_backbone MODEL.POOLING.PATTERN {pattern}")
        settings += [_RGB] if source.classifier else []
        return [f"use it with: ndpp train-det --config {config} MODEL.WEIGHTS {path} {' '.join(settings)}"]

    def caution(self) -> str:
        return (
            "note: Detectron2's own R-50.pkl and R-101.pkl (MSRA), and models trained from them, have strides in 1x1 "
            "convolutions and BGR images of 0 to 255. Their weights fit elsewhere by name and compute something else."
        )


DETECTRON2 = _Detectron2()
