"""Models that timm has under the same name."""

from __future__ import annotations

import timm
from torch import nn

__all__ = ["build"]


def build(num_classes: int, name: str) -> nn.Module:
    """Builds a timm model with random weights."""
    return timm.create_model(name, num_classes=num_classes)
