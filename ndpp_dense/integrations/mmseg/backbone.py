"""An ND++ ResNetV1c for those who want the backbone only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.registry import MODELS
from mmseg.models.backbones import ResNetV1c

from ndpp_dense.integrations.mmengine.config import read_options
from ndpp_dense.integrations.mmengine.initialization import convert_with_initialization
from ndpp_dense.training.prepare import prepare


@MODELS.register_module()
class NDResNetV1c(ResNetV1c):
    """MMSegmentation's ResNetV1c with all its convolutions converted.

    Args:
        ndpp: See :func:`ndpp_dense.integrations.mmengine.config.read_options`; rules name layers as this backbone does.
        **kwargs: As for ResNetV1c. ``norm_cfg`` may stay as it is: the norms go.
    """

    def __init__(self, ndpp: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        prepare(self, read_options(ndpp), convert=convert_with_initialization)
