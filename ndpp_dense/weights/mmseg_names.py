"""Names of a ResNet's weights: those of ``create_backbone``, which are torchvision's, and MMSegmentation's.

They differ in the deep stem of ResNetV1c only: ``conv1.0.weight`` here is ``stem.0.weight`` there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ndpp_dense.weights.formats import WeightFormat, renamed

__all__ = ["MMSEG", "from_mmseg", "to_mmseg"]

_IN_MMSEG = re.compile(r"(?:conv1|bn1|layer[1-4]\.\d+\.(?:conv[123]|bn[123]|downsample\.[01]))\.")


def to_mmseg(state: Mapping[str, Any]) -> dict[str, Any]:
    """Renames the weights of a classifier for MMSegmentation's ``ResNet`` or ``ResNetV1c``.

    Args:
        state: Names as in ``create_backbone("resnet50")`` or, with a deep stem, ``create_backbone("resnet50c")``; with
            or without norms (ND++) and classifier. Values are passed on.

    Returns:
        The same values in the same order.
    """
    return {re.sub(r"^conv1\.(?=\d)", "stem.", name): value for name, value in state.items()}


def from_mmseg(state: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`to_mmseg`.

    Args:
        state: Names as in MMSegmentation's backbone (without ``backbone.``).

    Returns:
        The same values in the same order.
    """
    return {re.sub(r"^stem\.", "conv1.", name): value for name, value in state.items()}


class _MMSeg(WeightFormat):
    name, title = "mmseg", "MMSegmentation"
    container = "state_dict"
    prefixes = ("backbone.",)
    sign = re.compile(r"backbone\.(?:stem\.0|conv1|layer1)\.|stem\.0\.")

    def renaming(self, names: Iterable[str]) -> Callable[[str], str | None]:
        return lambda name: renamed(from_mmseg, name)

    def target_names(self, names: Iterable[str], model: str) -> dict[str, str]:
        names = list(names)
        unknown = [name for name in names if not _IN_MMSEG.match(name)]
        if unknown:
            raise ValueError(
                f"MMSegmentation's ResNet has no place for {len(unknown)} of {len(names)} weights of {model}: "
                f"{', '.join(unknown[:5])}."
            )
        return {old: new for new, old in to_mmseg({name: name for name in names}).items()}

    def usage(self, path: str | Path, pattern: str | None, config: str, source: WeightFormat) -> list[str]:
        options = f"model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint={path}"
        options += f" model.backbone.type=PoolingResNet model.backbone.pattern={pattern}" if pattern else ""
        return [f"use it with: ndpp train-seg --config {config} --cfg-options {options}"]


MMSEG = _MMSeg()
