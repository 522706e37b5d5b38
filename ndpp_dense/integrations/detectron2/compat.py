"""What Detectron2 needs before its model zoo imports on a current setuptools; nothing where it needs nothing."""

from __future__ import annotations

import importlib
import importlib.resources
import importlib.util
import sys
from types import ModuleType

__all__ = ["import_model_zoo", "is_later_source"]


def import_model_zoo() -> None:
    """Imports ``detectron2.model_zoo`` where setuptools has no ``pkg_resources`` any more (since its release 82).

    Sources of Detectron2 ask it for the path of a config, and for nothing else. A stand-in answers; it is not left in
    ``sys.modules``, where others would take it for the real one.
    """
    if "detectron2.model_zoo" in sys.modules or importlib.util.find_spec("pkg_resources") is not None:
        return
    sys.modules["pkg_resources"] = _Resources("pkg_resources")
    try:
        importlib.import_module("detectron2.model_zoo")
    finally:
        del sys.modules["pkg_resources"]


def is_later_source() -> bool:
    """Whether Detectron2 is younger than release 0.6, whose number every source since has kept."""
    return importlib.util.find_spec("detectron2.tracking") is not None


class _Resources(ModuleType):
    @staticmethod
    def resource_filename(package: str, resource: str) -> str:
        return str(importlib.resources.files(package).joinpath(resource))
