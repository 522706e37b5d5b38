"""What configs name: build as configured, then convert, before weights, optimizer and DDP.

``NDPPModel`` is a model type, ``NDResNetV1c`` for those who want the backbone only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from mmengine.logging import MMLogger, print_log
from mmengine.registry import MODELS
from mmengine.structures import PixelData
from mmseg.models.backbones import ResNetV1c
from mmseg.structures import SegDataSample
from torch import nn

from ndpp_dense.conversion.options import NDPPOptions
from ndpp_dense.integrations.mmengine.config import read_options
from ndpp_dense.integrations.mmengine.initialization import convert_with_initialization
from ndpp_dense.layers import WhiteningConfig
from ndpp_dense.training.prepare import prepare

__all__ = ["NDResNetV1c", "build_ndpp_model", "to_ndpp"]

Model = TypeVar("Model", bound=nn.Module)
BLANK_SIZE = 64  # pixels a side of the image on which the conversion is verified


@MODELS.register_module(name="NDPPModel")
def build_ndpp_model(ndpp: Mapping[str, Any] | None = None, **model: Any) -> nn.Module:
    """Builds a segmentor and converts it: ``model = dict(type="NDPPModel", ndpp=dict(preset="fast"), backbone=...)``.

    Unless it names a momentum, ``NDPPStatsHook`` fits that to the batch of the run.

    Args:
        ndpp: See :func:`ndpp_dense.integrations.mmengine.config.read_options`; ``architecture`` is what to build.
        **model: What the architecture takes.

    Returns:
        The built model itself, converted; its ``ndpp_report`` says what was done.
    """
    options = read_options(ndpp)
    return _prepared(MODELS.build({"type": options.architecture, **model}), options)


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


def to_ndpp(
    model: Model,
    config: WhiteningConfig | None = None,
    rules: Mapping[Any, Any] | None = None,
    verify: bool = True,
) -> Model:
    """Converts a model that MMSegmentation has built.

    Statistics of layers whose weights are frozen (``frozen_stages``) are frozen too.

    Args:
        model: A segmentor, newly built.
        config: How to whiten; ``WhiteningConfig.fast("cityscapes")`` if None.
        rules: Exceptions, as :func:`ndpp_dense.convert_to_ndpp` takes them.
        verify: Whether to prove on a blank image that converted layers run, auxiliary heads included.

    Returns:
        The same model, with the report as ``model.ndpp_report``.

    Raises:
        RuntimeError: A converted layer does not run, and the plain one did.
    """
    return _prepared(model, NDPPOptions(config or WhiteningConfig.fast("cityscapes"), dict(rules or {}), verify))


def _prepared(model: Model, options: NDPPOptions) -> Model:
    report = prepare(model, options, convert=convert_with_initialization, example=_run_blank)
    if MMLogger.get_current_instance().instance_name != "mmengine":  # in a run, not where a model is built by hand
        print_log(f"ND++ conversion:\n{report}", logger="current")
    return model


def _run_blank(model: nn.Module) -> Any:
    """Runs the loss, since only it reaches auxiliary heads; some heads have none in evaluation mode."""
    parameter = next(model.parameters())
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    blank = torch.zeros(1, first.in_channels, BLANK_SIZE, BLANK_SIZE, device=parameter.device)
    labels = torch.zeros(1, BLANK_SIZE, BLANK_SIZE, dtype=torch.long, device=parameter.device)
    sample = SegDataSample(gt_sem_seg=PixelData(data=labels))
    sample.set_metainfo({"img_shape": (BLANK_SIZE, BLANK_SIZE), "pad_shape": (BLANK_SIZE, BLANK_SIZE)})
    try:
        return model(blank, [sample], mode="loss")
    except Exception:  # noqa: BLE001  (DDRNet, PIDNet and KNet each raise something else)
        return model(blank, mode="tensor")
