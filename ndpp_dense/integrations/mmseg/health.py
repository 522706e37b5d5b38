"""Which MMSegmentation works here, in words."""

from __future__ import annotations

from importlib.util import find_spec

import mmcv
import mmengine
import mmseg

import ndpp_dense.integrations.mmseg.prediction  # noqa: F401  (imports all that predicting needs)
from ndpp_dense.integrations.mmseg.compat import COMPILED_OPS, mixture

__all__ = ["describe"]


def describe() -> str:
    """The releases, and whether there are compiled ops."""
    plain = find_spec(COMPILED_OPS) is None
    ops = "no compiled ops (not needed by these models)" if plain else "compiled ops"
    mixed = f"; {mixture()}" if mixture() else ""
    return f"{mmseg.__version__}, mmengine {mmengine.__version__}, mmcv {mmcv.__version__}, {ops}{mixed}"
