"""Names of a ResNet's weights: those of ``create_backbone``, which are torchvision's, and MMSegmentation's.

They differ in the deep stem of ResNetV1c only: ``conv1.0.weight`` here is ``stem.0.weight`` there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


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
