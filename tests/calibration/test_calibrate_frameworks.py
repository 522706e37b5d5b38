"""Calibration of the backbones that Detectron2 and MMSegmentation build."""

import pytest
import torch
from torch import nn

from ndpp_dense import WhiteningConfig, calibrate_ndpp, fold_ndpp

PLAIN = WhiteningConfig(local_scale="none", block_size=8, block_size_spatial=2, sampling_stride=1)


def liven(model):
    """Gives norms the statistics and parameters of a model that was trained; small ones on deep shortcuts."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            for tensor, low, high in [
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.3, 3),
                (module.weight, 0.4, 1.0),
                (module.bias, -0.5, 0.5),
            ]:
                tensor.data.uniform_(low, high, generator=generator)
    model.eval()  # MMSegmentation's ResNet returns None
    return model


def images(count, generator_seed=1):
    generator = torch.Generator().manual_seed(generator_seed)
    return [torch.randn(8, 3, 64, 64, generator=generator) + 0.5 for _ in range(count)]


def assert_same(got, expected):
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert ((one - other).norm() / other.norm()).item() < 1e-5


@pytest.mark.detectron2
def test_detectron2_resnet50_fpn_with_frozen_norms():
    from detectron2.config import get_cfg
    from detectron2.modeling import build_backbone

    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.merge_from_list(["MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.NORM", "FrozenBN", "MODEL.FPN.OUT_CHANNELS", 16])
    cfg.merge_from_list(["MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 32])
    cfg.merge_from_list(["MODEL.RESNETS.WIDTH_PER_GROUP", 8])
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    torch.manual_seed(0)
    model = liven(build_backbone(cfg))
    x, *data = images(3)
    with torch.no_grad():
        expected = model(x)
        report = calibrate_ndpp(model, data, PLAIN)
        assert report.summary() == "61 layers converted to ND++, 0 left plain; 53 norms dropped, 0 kept"
        assert_same(list(model(x).values()), list(expected.values()))
        assert_same(list(fold_ndpp(model)(x).values()), list(expected.values()))
    assert not [name for name, _ in model.named_modules() if "norm" in name]


@pytest.mark.mmseg
def test_mmseg_resnet_v1c():
    from mmengine.registry import MODELS, init_default_scope

    import ndpp_dense.integrations.mmseg  # noqa: F401 - makes MMSegmentation importable

    init_default_scope("mmseg")
    torch.manual_seed(0)
    backbone = {"type": "ResNetV1c", "depth": 18, "stem_channels": 8, "base_channels": 8, "contract_dilation": True}
    backbone |= {"dilations": (1, 1, 2, 4), "strides": (1, 2, 1, 1), "norm_cfg": {"type": "SyncBN"}}
    model = liven(MODELS.build(backbone))
    x, *data = images(3)
    with torch.no_grad():
        expected = model(x)
        report = calibrate_ndpp(model, data, PLAIN)
        assert len(report.converted) == len(report.dropped_norms) == 3 + 16 + 3
        assert_same(model(x), expected)
        assert_same(fold_ndpp(model)(x), expected)
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
