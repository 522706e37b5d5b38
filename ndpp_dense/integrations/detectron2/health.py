"""Which Detectron2 works here, in words."""

from __future__ import annotations

import detectron2
from detectron2 import _C

import ndpp_dense.integrations.detectron2.prediction  # noqa: F401  (imports all that predicting needs)

__all__ = ["describe"]


def describe() -> str:
    """The release, and whether it has compiled ops."""
    placeholder = (_C.__file__ or "").endswith(".py")
    ops = "no compiled ops (no rotated boxes, DCN, use_fast_impl)" if placeholder else "compiled ops"
    return f"{detectron2.__version__}, {ops}"
