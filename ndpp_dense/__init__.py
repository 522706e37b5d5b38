"""ND++ for dense prediction: whitening layers, conversion of models, and their integration into vision frameworks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ndpp_dense.lazy_names import lazy_names

if TYPE_CHECKING:
    from ndpp_dense.backbones import backbone_card, create_backbone, list_backbones
    from ndpp_dense.calibration.calibrate import calibrate_ndpp
    from ndpp_dense.conversion.convert import ConversionReport, convert_to_ndpp
    from ndpp_dense.conversion.fold import fold_ndpp
    from ndpp_dense.layers import (
        NDConv1d,
        NDConv2d,
        NDConv3d,
        NDConvTranspose1d,
        NDConvTranspose2d,
        NDConvTranspose3d,
        NDLinear,
        WhiteningConfig,
        nd_layers,
    )
    from ndpp_dense.layers.model_statistics import (
        freeze_stats,
        hold_stats,
        synchronize_stats,
        update_stats,
    )
    from ndpp_dense.layers.scale_ramp import ramp_local_scale
    from ndpp_dense.layers.statistics.steps import micro_batch_of_step, settle_stats
    from ndpp_dense.training.micro_batches import micro_batches_of_step
    from ndpp_dense.zoo import load_checkpoint

__version__ = "0.1.0"

_HOMES = {
    "ConversionReport": "ndpp_dense.conversion.convert",
    "NDConv1d": "ndpp_dense.layers",
    "NDConv2d": "ndpp_dense.layers",
    "NDConv3d": "ndpp_dense.layers",
    "NDConvTranspose1d": "ndpp_dense.layers",
    "NDConvTranspose2d": "ndpp_dense.layers",
    "NDConvTranspose3d": "ndpp_dense.layers",
    "NDLinear": "ndpp_dense.layers",
    "WhiteningConfig": "ndpp_dense.layers",
    "backbone_card": "ndpp_dense.backbones",
    "calibrate_ndpp": "ndpp_dense.calibration.calibrate",
    "convert_to_ndpp": "ndpp_dense.conversion.convert",
    "create_backbone": "ndpp_dense.backbones",
    "fold_ndpp": "ndpp_dense.conversion.fold",
    "freeze_stats": "ndpp_dense.layers.model_statistics",
    "hold_stats": "ndpp_dense.layers.model_statistics",
    "list_backbones": "ndpp_dense.backbones",
    "load_checkpoint": "ndpp_dense.zoo",
    "micro_batch_of_step": "ndpp_dense.layers.statistics.steps",
    "micro_batches_of_step": "ndpp_dense.training.micro_batches",
    "nd_layers": "ndpp_dense.layers",
    "ramp_local_scale": "ndpp_dense.layers.scale_ramp",
    "settle_stats": "ndpp_dense.layers.statistics.steps",
    "synchronize_stats": "ndpp_dense.layers.model_statistics",
    "update_stats": "ndpp_dense.layers.model_statistics",
}

__all__ = [
    "ConversionReport",
    "NDConv1d",
    "NDConv2d",
    "NDConv3d",
    "NDConvTranspose1d",
    "NDConvTranspose2d",
    "NDConvTranspose3d",
    "NDLinear",
    "WhiteningConfig",
    "__version__",
    "backbone_card",
    "calibrate_ndpp",
    "convert_to_ndpp",
    "create_backbone",
    "fold_ndpp",
    "freeze_stats",
    "hold_stats",
    "list_backbones",
    "load_checkpoint",
    "micro_batch_of_step",
    "micro_batches_of_step",
    "nd_layers",
    "ramp_local_scale",
    "settle_stats",
    "synchronize_stats",
    "update_stats",
]


# Names of the release before, which work for one more.
_RENAMED = {"portion_of_step": "micro_batch_of_step", "portions_of_step": "micro_batches_of_step"}

__getattr__ = lazy_names(__name__, _HOMES, _RENAMED)


def __dir__() -> list[str]:
    return __all__
