"""The part of the package that knows the framework of a row."""

from __future__ import annotations

import logging
from typing import Any

from ndpp_dense.integrations.registry import framework
from ndpp_dense.zoo import ZooError, ZooModel

__all__ = ["framework_of", "predictor_of"]


def framework_of(model: ZooModel) -> Any:
    """The module with ``build_zoo_model``, ``evaluate_zoo_model`` and ``run_blank`` for a row.

    Raises:
        ZooError: The framework is not installed, or unknown to this release.
    """
    return _loaded(model, "zoo")


def predictor_of(model: ZooModel) -> Any:
    """The module whose ``of_zoo`` predicts with the model of a row and draws what it predicts.

    Raises:
        ZooError: The framework is not installed, or unknown to this release, or the model makes no pictures.
    """
    return _loaded(model, "predictor")


def _loaded(model: ZooModel, part: str) -> Any:
    try:
        record = framework(model.framework)
        if not getattr(record, part):
            raise ZooError(
                f"{model.name} is a backbone for {model.task}: it makes no pictures. `ndpp zoo list` names others."
            )
        logging.getLogger("ndpp_dense").setLevel(logging.WARNING)
        return record.load(getattr(record, part))
    except ValueError as error:
        if isinstance(error, ZooError):
            raise
        raise ZooError(f"{model.name}: {error} A newer ndpp-dense may know it.") from error
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("ndpp_dense"):
            raise
        raise ZooError(f"{model.name}: {error}") from error
