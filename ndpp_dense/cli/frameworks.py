"""The part of the package that knows the framework of a row."""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

from ndpp_dense.zoo import ZooError, ZooModel

__all__ = ["framework_of", "predictor_of"]

# The module that builds and evaluates, and what to install for it.
_MODULES = {
    "detectron2": ("ndpp_dense.integrations.detectron2", "Detectron2 (ndpp install-detectron2)"),
    "mmseg": ("ndpp_dense.integrations.mmseg", "MMSegmentation (pip install 'ndpp-dense[mmseg]')"),
    "timm": ("ndpp_dense.pretrain", "timm (pip install 'ndpp-dense[pretrain]')"),
}


def framework_of(model: ZooModel) -> Any:
    """The module with ``build_zoo_model`` and ``evaluate_zoo_model`` for a row.

    Raises:
        ZooError: The framework is not installed.
    """
    return _imported(model, "zoo")


def predictor_of(model: ZooModel) -> Any:
    """The class that predicts with the model of a row and draws what it predicts.

    Raises:
        ZooError: The framework is not installed, or the model makes no pictures.
    """
    if model.framework == "timm":
        raise ZooError(
            f"{model.name} is a backbone for {model.task}: it makes no pictures. `ndpp zoo list` names others."
        )
    return _imported(model, "prediction").Predictor


def _imported(model: ZooModel, module: str) -> Any:
    package, needed = _MODULES[model.framework]
    try:
        found = import_module(package)
        logging.getLogger("ndpp_dense").setLevel(logging.WARNING)
        return import_module(f"{found.__name__}.{module}")
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("ndpp_dense"):
            raise
        raise ZooError(f"{model.name} needs {needed}: {error}. `ndpp doctor` says what is missing.") from error
