"""ND++ in MMSegmentation: ``custom_imports = dict(imports=["ndpp_dense.integrations.mmseg"])`` registers everything."""

from ndpp_dense.integrations.mmseg.compat import prepare_mmseg

prepare_mmseg()  # what follows imports MMSegmentation, which needs it

from ndpp_dense.integrations import mmengine  # noqa: E402
from ndpp_dense.integrations.mmengine import *  # noqa: E402, F403  (what the other room registers is public here too)
from ndpp_dense.integrations.mmseg.data import CamVidDataset, CheckLabels, ClassIoUMetric, StreetsDataset  # noqa: E402
from ndpp_dense.integrations.mmseg.export import export_onnx  # noqa: E402
from ndpp_dense.integrations.mmseg.loading import LoadCheckedImage, LoadCheckedLabels  # noqa: E402
from ndpp_dense.integrations.mmseg.modeling import NDResNetV1c, build_ndpp_model, to_ndpp  # noqa: E402
from ndpp_dense.integrations.mmseg.pooling_backbone import PoolingResNet, PoolingResNetV1c  # noqa: E402
from ndpp_dense.integrations.mmseg.report import NDPPReportHook  # noqa: E402
from ndpp_dense.integrations.mmseg.timm_backbone import NDPPTimmBackbone  # noqa: E402

__all__ = [
    "CamVidDataset",
    "CheckLabels",
    "ClassIoUMetric",
    "LoadCheckedImage",
    "LoadCheckedLabels",
    "NDPPReportHook",
    "NDPPTimmBackbone",
    "NDResNetV1c",
    "PoolingResNet",
    "PoolingResNetV1c",
    "StreetsDataset",
    "build_ndpp_model",
    "export_onnx",
    "prepare_mmseg",
    "to_ndpp",
]
__all__ += mmengine.__all__
