"""One core: the same weights and input give the same ND++ ResNet features in both frameworks."""

import pytest
import torch

from ndpp_dense import WhiteningConfig, convert_to_ndpp

pytest.importorskip("detectron2", reason="Detectron2 is not installed: ndpp install-detectron2")
pytestmark = [
    pytest.mark.detectron2,
    pytest.mark.mmseg,
]
WIDTH = 8


def detectron2_resnet():
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone import build_resnet_backbone

    cfg = get_cfg()
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = WIDTH
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = WIDTH
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 4 * WIDTH
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    return build_resnet_backbone(cfg, ShapeSpec(channels=3))


def mmseg_resnet():
    from mmengine.registry import MODELS

    import ndpp_dense.integrations.mmseg  # noqa: F401

    options = {"depth": 50, "stem_channels": WIDTH, "base_channels": WIDTH, "norm_cfg": {"type": "BN"}}
    return MODELS.build({"type": "mmseg.ResNet", **options})


def detectron2_name(name):
    """Translate an MMSegmentation name, which is torchvision's."""
    for stage in range(1, 5):
        name = name.replace(f"layer{stage}.", f"res{stage + 1}.")
    return name.replace("downsample.0", "shortcut") if name.startswith("res") else f"stem.{name}"


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_features_agree(preset):
    torch.manual_seed(0)
    ours, theirs = mmseg_resnet(), detectron2_resnet()
    config = getattr(WhiteningConfig, preset)("cityscapes")
    for net in (ours, theirs):
        convert_to_ndpp(net, config)
    weights = {detectron2_name(name): value for name, value in ours.state_dict().items()}
    theirs.load_state_dict(weights)
    x = torch.randn(2, 3, 64, 96)
    for mode in (True, False):
        ours.train(mode)
        theirs.train(mode)
        features, expected = ours(x), theirs(x)
        for feature, (name, other) in zip(features, expected.items(), strict=True):
            assert torch.equal(feature, other), (name, mode)
