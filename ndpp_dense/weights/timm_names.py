"""Names of weights in timm, which are torchvision's and those of ``create_backbone``; PfLayer's are read too."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from ndpp_dense.weights.files import SUFFIXES
from ndpp_dense.weights.formats import WeightFormat
from ndpp_dense.weights.pflayer_names import pflayer_renaming

__all__ = ["TIMM", "TORCHVISION"]


class _Timm(WeightFormat):
    name, title = "timm", "timm"
    container = "state_dict"
    sign = re.compile(r"conv1\.|layer1\.\d|patch_embed\.(?:proj|conv)\.")
    also = " (torchvision has the same names)"
    classifier = True
    suffixes = SUFFIXES

    def renaming(self, names: Iterable[str]) -> Callable[[str], str | None]:
        names = set(names)
        published = pflayer_renaming(names)
        if published is not None:
            return published
        # The last norm of a deep stem is beside it.
        if {"conv1.6.weight", "bn1.weight"} <= names:
            return lambda name: re.sub(r"^bn1\.", "conv1.7.", name)
        return lambda name: name

    def target_names(self, names: Iterable[str], model: str) -> dict[str, str]:
        return {name: name for name in names}


class _Torchvision(_Timm):
    name, title = "torchvision", "torchvision"
    container = ""
    sign = None


TIMM, TORCHVISION = _Timm(), _Torchvision()
