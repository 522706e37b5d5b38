"""Which timm works here, in words."""

from __future__ import annotations

import timm

import ndpp_dense.pretrain.network  # noqa: F401  (imports all that building needs)

__all__ = ["describe"]


def describe() -> str:
    """The release."""
    return str(timm.__version__)
