"""Names of a ResNet's weights: torchvision's, which every other part of this package uses, and Detectron2's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

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
