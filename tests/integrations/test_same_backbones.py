"""One core: the same weights give the same features in timm, Detectron2 and MMSegmentation, to the last bit."""

import pytest
import torch

from ndpp_dense import WhiteningConfig, convert_to_ndpp

pytest.importorskip("timm", reason="timm is not installed: extra 'pretrain'")
pytest.importorskip("detectron2", reason="Detectron2 is not installed: ndpp install-detectron2")
pytest.importorskip("mmseg", reason="MMSegmentation is not installed: extra 'mmseg'")
pytestmark = [pytest.mark.detectron2, pytest.mark.mmseg]
WIDTH = 8
DEPTHS = (3, 4, 6, 3)
PATTERNS = {"resnet50": "BBBB", "max": "max", "hybrid": "hybrid", "deform_max": "deform_max", "alternating": "E/B"}


def in_timm(pattern, stem=None):
    from ndpp_dense.backbones.resnet import build

    options = {} if stem is None else {"stem_type": "deep", "stem_width": stem // 2}
    return build(5, DEPTHS, pattern, channels=[WIDTH << stage for stage in range(4)], **options)


def in_detectron2(pattern, *overrides):
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec

    from ndpp_dense.integrations.detectron2 import add_ndpp_config, build_pooling_resnet_backbone

    cfg = add_ndpp_config(get_cfg())
    cfg.MODEL.POOLING.PATTERN = pattern
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    values = {"NORM": "BN", "STRIDE_IN_1X1": False, "WIDTH_PER_GROUP": WIDTH, "RES2_OUT_CHANNELS": 4 * WIDTH}
    for name, value in {**values, "OUT_FEATURES": ["res2", "res3", "res4", "res5"]}.items():
        cfg.MODEL.RESNETS[name] = value
    cfg.merge_from_list(list(overrides))
    return build_pooling_resnet_backbone(cfg, ShapeSpec(channels=3))


def in_mmseg(pattern, kind="PoolingResNet", **options):
    from mmengine.registry import MODELS

    import ndpp_dense.integrations.mmseg  # noqa: F401

    options = {"depth": 50, "base_channels": WIDTH, "norm_cfg": {"type": "BN"}, **options}
    net = MODELS.build({"type": kind, "pattern": pattern, **options})
    net.eval()  # returns nothing
    return net


def trained_a_little(model):
    """Give every weight and statistic a value of its own: freshly initialised branches end in a zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or "predictor" in name:
                parameter.copy_(torch.rand_like(parameter) * 0.2 + 0.4 * name.endswith("weight"))
        for _ in range(2):
            model.train()(torch.randn(4, 3, 64, 64))
    return model.eval()


def backbone_only(state):
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


@pytest.mark.parametrize("ndpp", [False, True], ids=["bn", "ndpp"])
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS.keys())
def test_features_agree(pattern, ndpp):
    from ndpp_dense.weights.detectron2_names import to_detectron2
    from ndpp_dense.weights.mmseg_names import to_mmseg

    nets = [in_timm(pattern), in_detectron2(pattern), in_mmseg(pattern)]
    if ndpp:
        for net in nets:
            convert_to_ndpp(net, WhiteningConfig.fast("coco"))
    ours, theirs, others = trained_a_little(nets[0]), nets[1].eval(), nets[2]
    state = backbone_only(ours.state_dict())
    theirs.load_state_dict(to_detectron2(state))
    others.load_state_dict(to_mmseg(state))
    x = torch.randn(2, 3, 65, 97)
    with torch.no_grad():
        expected = ours.forward_intermediates(x, intermediates_only=True)[1:]
        for feature, named, other in zip(expected, theirs(x).values(), others(x), strict=True):
            assert feature.std() > 0
            assert torch.equal(feature, named)
            assert torch.equal(feature, other)


def test_features_agree_at_output_stride_8():
    from ndpp_dense.backbones.resnet import build
    from ndpp_dense.weights.mmseg_names import to_mmseg

    ours = trained_a_little(build(0, DEPTHS, "hybrid", output_stride=8, channels=[WIDTH << s for s in range(4)]))
    dilated = {"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4), "contract_dilation": True}
    others = in_mmseg("hybrid", **dilated)
    others.load_state_dict(to_mmseg(ours.state_dict()))
    x = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        feature = ours.forward_intermediates(x, intermediates_only=True)[-1]
        assert feature.shape[2:] == (9, 13)
        assert torch.equal(feature, others(x)[-1])


@pytest.mark.parametrize("ndpp", [False, True], ids=["bn", "ndpp"])
@pytest.mark.parametrize("pattern", ["BBBB", "hybrid"])
def test_features_agree_behind_a_deep_stem(pattern, ndpp):
    from ndpp_dense.weights.mmseg_names import from_mmseg, to_mmseg

    ours, others = in_timm(pattern, stem=16), in_mmseg(pattern, "PoolingResNetV1c", stem_channels=16)
    if ndpp:
        for net in (ours, others):
            convert_to_ndpp(net, WhiteningConfig.fast("cityscapes"))
    trained_a_little(ours)
    state = backbone_only(ours.state_dict())
    others.load_state_dict(to_mmseg(state))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours.forward_intermediates(x, intermediates_only=True)[-1], others(x)[-1])
    assert list(from_mmseg(others.state_dict())) == list(state)


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS.keys())
def test_names_go_there_and_back(pattern):
    from ndpp_dense.weights.detectron2_names import from_detectron2, to_detectron2
    from ndpp_dense.weights.mmseg_names import from_mmseg, to_mmseg

    with torch.device("meta"):
        state = in_timm(pattern).state_dict()
    assert list(from_detectron2(to_detectron2(state)).items()) == list(state.items())
    assert list(from_mmseg(to_mmseg(state))) == list(to_mmseg(state)) == list(state)
    assert {"linear.weight", "stem.conv1.norm.bias", "res2.0.shortcut.norm.weight"} <= to_detectron2(state).keys()


def test_plain_resnets_of_the_frameworks_take_the_same_weights():
    from detectron2.modeling.backbone import resnet
    from mmseg.models.backbones import ResNet

    from ndpp_dense.weights.detectron2_names import to_detectron2
    from ndpp_dense.weights.mmseg_names import to_mmseg

    with torch.device("meta"):
        state = backbone_only(in_timm("BBBB").state_dict())
        stages = resnet.ResNet.make_default_stages(50)
        theirs = resnet.ResNet(resnet.BasicStem(), stages, out_features=["res5"])
        others = ResNet(50)
    assert to_detectron2(state).keys() == theirs.state_dict().keys()
    assert to_mmseg(state).keys() == others.state_dict().keys()


def test_weights_without_a_place_are_named():
    from ndpp_dense.weights.detectron2_names import from_detectron2, to_detectron2

    for name in ("layer1.0.se.fc1.weight", "conv1.0.weight", "module.conv1.weight", "layer5.0.conv1.weight"):
        with pytest.raises(ValueError, match=rf"Detectron2's ResNet has no place for 1 of 2 weights: {name}"):
            to_detectron2({name: 0, "bn1.bias": 0})
    with pytest.raises(ValueError, match=r"torchvision's ResNet has no place for 1 of 1 weights: backbone\.stem"):
        from_detectron2({"backbone.stem.conv1.weight": 0})
