"""Every registered backbone: size, cost, forward, backward, strides; as the published tables have them."""

import importlib
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ndpp_dense import WhiteningConfig, backbone_card, create_backbone, list_backbones, nd_layers
from ndpp_dense.backbones import BackboneCard
from ndpp_dense.backbones.vgg import PooledVGG16

pytest.importorskip("timm", reason="timm is not installed: extra 'pretrain'")
NAMES = list_backbones()
RESNETS = list_backbones("*resnet*")
FLATTENED = list_backbones("vgg16_*flatten")
# Millions of weights, or an image of 256 pixels: without storage by default, with it among the slow tests.
HEAVY = {"resnet101", "vgg11", "vit_base", "wide_resnet50_2_hybrid", "wide_resnet101_2_hybrid", *FLATTENED}
# Million parameters (of Faster R-CNN's backbones, transformers and the rest), thousand million multiply-adds.
PUBLISHED = {
    "resnet50": (25.557, 4.089),
    "resnet50_max": (14.232, 2.239),
    "resnet50_hybrid": (17.331, 2.586),
    "resnet50_deform_max": (18.031, 2.879),
    "resnet50_deform_avg": (18.031, 2.879),
    "seresnet50_hybrid": (19.862, 2.589),
    "resnet101_hybrid": (26.287, 4.333),
    "wide_resnet50_2_hybrid": (35.989, 5.387),
    "wide_resnet101_2_hybrid": (53.867, 8.880),
    "vit_small_max": (23.82, 4.74),
    "pit_small_max": (25.12, 2.81),
}


def images(name, side=64):
    side = backbone_card(name).image_size if name in FLATTENED else side
    return torch.randn(2, 3, side, side)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", NAMES)
def test_size_and_cost(name):
    card = backbone_card(name)
    with torch.device("meta"):
        model = create_backbone(name, card.num_classes).eval()
        x = torch.zeros(1, 3, card.image_size, card.image_size)
    params = sum(p.numel() for p in model.parameters()) / 1e6
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        assert model(x).shape == (1, card.num_classes)
    gflops = counter.get_total_flops() / 2e9  # it counts a multiply-add as two
    for expected in filter(None, [(card.params, card.gflops), PUBLISHED.get(name)]):
        assert params == pytest.approx(expected[0], abs=1e-3)
        assert gflops == pytest.approx(expected[1], rel=0.01)
    assert card.top1 is None or 70 < card.top1 < (card.top1_long or 85)
    assert isinstance(card, BackboneCard)
    assert card.source


def test_cost_by_fvcore():
    analysis = pytest.importorskip("fvcore.nn", reason="fvcore is not installed: extra 'detectron2'").FlopCountAnalysis
    counted = analysis(create_backbone("resnet50_hybrid").eval(), torch.zeros(1, 3, 224, 224))
    operators = counted.unsupported_ops_warnings(False).uncalled_modules_warnings(False).by_operator()
    assert (operators["conv"] + operators["linear"]) / 1e9 == pytest.approx(2.586, abs=1e-3)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in HEAVY else name for name in NAMES]
)
def test_forward_and_backward(name):
    model = create_backbone(name, num_classes=5)
    y = model(images(name))
    assert y.shape == (2, 5)
    y.square().sum().backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert idle == []


@pytest.mark.parametrize("name", sorted(HEAVY))
def test_heavy_ones_without_storage(name):
    with torch.device("meta"):
        model = create_backbone(name, num_classes=5)
        model(images(name)).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("size", [(64, 96), (75, 61)])
@pytest.mark.parametrize("name", RESNETS)
def test_strides_and_channels(name, size):
    with torch.device("meta"):
        model = create_backbone(name, 0)
        features = model.forward_intermediates(torch.zeros(1, 3, *size), intermediates_only=True)[1:]
    widths = [64, 128, 256, 512] if name == "resnet18" else [256, 512, 1024, 2048]
    assert [info["num_chs"] for info in model.feature_info[1:]] == [f.shape[1] for f in features] == widths
    assert [info["reduction"] for info in model.feature_info[1:]] == [4, 8, 16, 32]
    expected = [tuple(-(-side // stride) for side in size) for stride in (4, 8, 16, 32)]
    assert [tuple(feature.shape[2:]) for feature in features] == expected


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", RESNETS)
def test_dilated_stages_have_the_same_weights(name, stride):
    with torch.device("meta"):
        plain, dilated = create_backbone(name), create_backbone(name, output_stride=stride)
        features = dilated.forward_intermediates(torch.zeros(1, 3, 65, 97), intermediates_only=True)
    assert [info["reduction"] for info in dilated.feature_info[1:]] == [min(s, stride) for s in (4, 8, 16, 32)]
    assert features[-1].shape[2:] == (-(-65 // stride), -(-97 // stride))
    shapes = [{name: value.shape for name, value in model.state_dict().items()} for model in (plain, dilated)]
    assert shapes[0] == shapes[1]


def test_a_dilated_network_trains():
    model = create_backbone("resnet26_hybrid", 3, output_stride=8)
    model(torch.randn(2, 3, 49, 33)).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["pit_small_max", "vit_small_max", "vgg16_multi_gap", "resnet50_deform_avg"])
def test_odd_images(name):
    model = create_backbone(name, 3).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 75, 75)).isfinite().all()


@pytest.mark.parametrize("name", ["pit_small_max", "vit_small_max"])
def test_pooling_over_tokens_takes_squares(name):
    with torch.device("meta"), pytest.raises(ValueError, match="square images"):
        create_backbone(name)(torch.zeros(1, 3, 64, 128))


def test_flattened_readouts_take_the_size_they_were_built_for():
    with torch.device("meta"), pytest.raises(ValueError, match=r"\(64, 64\) pixels.*squares of 256"):
        create_backbone("vgg16_flatten")(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("readout", "trained"),
    [("flatten", 5_243_040), ("gap", 82_080), ("multi_gap", 235_680), ("multi_gap_flatten", 5_478_560)],
)
def test_trained_weights_of_gap_variants(readout, trained):
    with torch.device("meta"):
        model = create_backbone(f"vgg16_{readout}", num_classes=160)
    assert sum(p.numel() for p in model.head.parameters()) == trained
    total = sum(p.numel() for p in model.parameters())
    assert total == 14_714_688 + trained == round(1e6 * backbone_card(f"vgg16_{readout}").params)


def test_gap_variants_in_small_differ_in_the_head_alone():
    heads = {"flatten": 512, "gap": 128, "multi_gap": 368, "multi_gap_flatten": 880}
    models = {readout: create_backbone(f"vgg16_small_{readout}", num_classes=10) for readout in heads}
    for readout, features in heads.items():
        assert models[readout].num_features == features
        assert models[readout].features.state_dict().keys() == models["gap"].features.state_dict().keys()
    with pytest.raises(ValueError, match="readout = 'mean': it must be one of 'flatten'"):
        PooledVGG16(readout="mean")


def test_the_signal_reaches_the_last_pool_of_a_deep_plain_network():
    with torch.no_grad():
        pools = PooledVGG16(0).forward_features(torch.randn(2, 3, 64, 64))
    assert 0.03 < pools[-1].std() / pools[0].std() < 30


@pytest.mark.parametrize("name", ["resnet26_hybrid", "resnet50c_hybrid", "vit_small_max", "vgg16_gap"])
def test_ndpp(name):
    model = create_backbone(name, num_classes=3, ndpp=WhiteningConfig())
    x = images(name)
    model(x).sum().backward()
    assert len(list(nd_layers(model))) == len(model.ndpp_report.converted) > 10
    assert not [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    model.ndpp_report.verify(model, x)


def test_deformable_pools_start_at_rest_and_unwhitened():
    model = create_backbone("resnet50_deform_max", ndpp=WhiteningConfig())
    predictors = [m for name, m in model.named_modules() if name.endswith("predictor")]
    assert len(predictors) == 13
    assert all(type(m) is nn.Conv2d and not m.weight.any() and not m.bias.any() for m in predictors)


@pytest.mark.parametrize("name", NAMES)
def test_no_classifier_where_no_classes_are(name):
    with torch.device("meta"):
        bare, full = create_backbone(name, 0), create_backbone(name, 7)
    assert full.state_dict().keys() - bare.state_dict().keys()


def test_wrong_arguments():
    with pytest.raises(ValueError, match="Unknown backbone 'resnet50-hybird'. Did you mean 'resnet50_hybrid'"):
        create_backbone("resnet50-hybird")
    with pytest.raises(ValueError, match="num_classes = -1: it must be at least 0"):
        create_backbone("resnet18", -1)
    for name, stride in (("resnet50", 4), ("vgg11", 8)):
        with pytest.raises(ValueError, match=f"output_stride = {stride} for '{name}'"):
            create_backbone(name, output_stride=stride)


def test_listing():
    assert sorted(NAMES) == NAMES
    kinds = ("deform_avg", "deform_max", "hybrid", "max")
    assert list_backbones("resnet50_*") == [f"resnet50_{kind}" for kind in kinds]
    assert list_backbones("none*") == []


def test_names_are_known_without_timm(monkeypatch):
    code = (
        "import sys, ndpp_dense; ndpp_dense.backbone_card(ndpp_dense.list_backbones()[0]); print('timm' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.delitem(sys.modules, "ndpp_dense.backbones.timm_model", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"install ndpp-dense\[pretrain\]"):
        create_backbone("vgg11")
    monkeypatch.undo()
    importlib.import_module("ndpp_dense.backbones.timm_model")
