"""Which Detectron2 works here, in words."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import detectron2

import ndpp_dense.integrations.detectron2.prediction  # noqa: F401  (imports all that predicting needs)
from ndpp_dense.integrations.detectron2.compat import is_later_source

__all__ = ["describe"]


def describe() -> str:
    """The release, whether it is that or a later source, and whether it has compiled ops."""
    ops = "compiled ops" if _has_ops() else "no compiled ops (no rotated boxes, DCN, use_fast_impl)"
    kind = "later source" if is_later_source() else "release"
    return f"{detectron2.__version__} ({kind}{_build()}), {ops}"


def _has_ops() -> bool:
    spec = find_spec("detectron2._C")
    return spec is not None and not (spec.origin or "").endswith(".py")


def _build() -> str:
    """What a distribution's version has after the number, such as a commit; an importable folder has none."""
    try:
        local = version("detectron2").partition("+")[2]
    except PackageNotFoundError:
        return ", not installed but importable"
    return f", {local}" if local else ""
