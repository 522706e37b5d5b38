"""Feature maps of timm networks: sizes, weights, what is frozen."""

import pytest
import torch
from torch import nn

pytest.importorskip("timm", reason="timm is not installed: extra 'pretrain'")

import timm

from ndpp_dense.backbones.timm_features import TimmFeatures

FAMILIES = ("resnet10t", "mobilenetv3_small_050", "tf_efficientnet_lite0", "convnext_atto", "regnetx_002")


@pytest.mark.parametrize("name", FAMILIES)
def test_maps_have_the_channels_and_strides_that_are_told(name):
    features = TimmFeatures(name, out_indices=(0, 1, 3) if name == "convnext_atto" else (1, 2, 4)).eval()
    with torch.no_grad():
        maps = features(torch.randn(1, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [
        (1, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(features.channels, features.strides, strict=True)
    ]
    assert features.strides == [4, 8, 32]


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_by_timms_names_are_taken_whole(name, tmp_path):
    torch.manual_seed(1)
    whole = timm.create_model(name).eval()
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    features = TimmFeatures(name, tmp_path / "whole.pth").eval()
    assert features.pretrained
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = whole.forward_intermediates(x, indices=[-1], intermediates_only=True)[0]
        torch.testing.assert_close(features(x)[-1], expected)


def test_other_weights_are_refused(tmp_path):
    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "other.pth")
    for name in ("resnet14t", "resnet18", "mobilenetv3_small_050"):  # in part, other shapes, other names
        with pytest.raises(ValueError, match=rf"other\.pth does not fit '{name}': .*It is of another model: give that"):
            TimmFeatures(name, tmp_path / "other.pth")
    with pytest.raises(FileNotFoundError):
        TimmFeatures("resnet10t", tmp_path / "gone.pth")


def norms(module):
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize(("name", "frozen"), [("resnet10t", "layer1"), ("tf_efficientnet_lite0", "blocks.1")])
def test_what_is_frozen_stays_in_training(name, frozen):
    features = TimmFeatures(name, freeze_at=2).train()
    fixed = [key for key, parameter in features.network.named_parameters() if not parameter.requires_grad]
    moving = [key for key, parameter in features.network.named_parameters() if parameter.requires_grad]
    assert any(key.startswith((frozen, frozen.replace(".", "_"))) for key in fixed)
    assert any(key.startswith("conv") for key in fixed)
    assert moving
    before = {key: value.clone() for key, value in features.network.state_dict().items()}
    sum(m.square().mean() for m in features(torch.randn(2, 3, 64, 64))).backward()
    after = features.network.state_dict()
    stems = {key.rpartition(".")[0] for key in fixed}
    moved = {key.rpartition(".")[0] for key in after if "running_mean" in key and not after[key].equal(before[key])}
    assert moved
    assert not moved & stems


@pytest.mark.parametrize("norm", ["FrozenBN", "SyncBN"])
def test_norms_are_replaced(norm):
    features = TimmFeatures("tf_efficientnet_lite0", norm=norm).train()
    if norm == "SyncBN":
        assert all(isinstance(m, nn.SyncBatchNorm) for m in features.modules() if hasattr(m, "running_mean"))
        return
    assert norms(features)
    assert not any(m.training or m.weight.requires_grad for m in norms(features))
    before = norms(features)[0].running_mean.clone()
    features(torch.randn(2, 3, 64, 64))
    assert norms(features)[0].running_mean.equal(before)


def test_dilation_keeps_maps_large():
    features = TimmFeatures("resnet10t", out_indices=(4,), output_stride=8).eval()
    assert features(torch.randn(1, 3, 64, 64))[0].shape[-1] == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "resnet10"}, "timm has no model 'resnet10'. Nearest: 'resnet10t'"),
        ({"name": "resnet10t", "norm": "GN"}, "norm = 'GN', choose from '', 'FrozenBN', 'SyncBN'"),
        ({"name": "resnet10t", "out_indices": (9,)}, "timm cannot make feature maps of 'resnet10t'"),
        (
            {"name": "convnext_atto", "freeze_at": 1},
            "freeze_at = 1 asks for the map of stride 2.* choose from 2, 3, 4, 5, or 0",
        ),
    ],
)
def test_what_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        TimmFeatures(**settings)
