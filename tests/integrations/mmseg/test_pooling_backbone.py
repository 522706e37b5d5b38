"""Pooling backbones in MMSegmentation: dilated, frozen, checkpointed and initialised like its own."""

import pytest
import torch
from torch import nn

from ndpp_dense import nd_layers
from ndpp_dense.layers.pooling import DeformablePool3x3, MaxPool3x3

pytestmark = pytest.mark.mmseg
DILATED = {"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4), "contract_dilation": True}


def make(pattern="hybrid", **options):
    from mmengine.registry import MODELS

    import ndpp_dense.integrations.mmseg  # noqa: F401

    torch.manual_seed(0)
    small = {"depth": 50, "stem_channels": 8, "base_channels": 8}
    return MODELS.build({"type": "PoolingResNetV1c", "pattern": pattern, **small, **options})


@pytest.mark.parametrize("pattern", ["max", "hybrid", "deform_max"])
def test_output_stride_8_has_the_same_weights(pattern):
    plain, dilated = make(pattern), make(pattern, **DILATED)
    dilated.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 65, 97)
    assert [tuple(f.shape[1:]) for f in plain(x)] == [(32, 17, 25), (64, 9, 13), (128, 5, 7), (256, 3, 4)]
    features = dilated(x)
    assert [tuple(f.shape[1:]) for f in features] == [(32, 17, 25), (64, 9, 13), (128, 9, 13), (256, 9, 13)]
    features[-1].square().mean().backward()
    assert [name for name, p in dilated.named_parameters() if p.grad is None] == []


def test_pools_are_dilated_with_their_stage():
    net = make(**DILATED)
    assert [[block.conv2.dilation for block in list(stage)[1:]] for stage in (net.layer2, net.layer3, net.layer4)] == [
        *([1] * 3, [2] * 5, [4] * 2)
    ]
    assert [type(block.conv2).__name__ for block in net.layer4] == ["AvgPoolConv2d", "MaxPool3x3", "MaxPool3x3"]
    assert sum(isinstance(m, MaxPool3x3) for m in net.modules()) == 13


def test_frozen_stages_stay_frozen_in_training():
    net = make("deform_max", frozen_stages=2)
    net.train()
    frozen = {name.partition(".")[0] for name, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {"stem", "layer1", "layer2"}
    assert not any(m.training for m in net.layer2.modules())
    assert net.layer3.training


def test_activation_checkpointing_changes_nothing():
    plain, saving = make("deform_max"), make("deform_max", with_cp=True)
    saving.load_state_dict(plain.state_dict())
    gradients = []
    for net in (plain, saving):
        torch.manual_seed(1)
        x = torch.randn(2, 3, 64, 64, requires_grad=True)
        net(x)[-1].square().mean().backward()
        gradients.append([x.grad, *(p.grad for p in net.parameters())])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_initialisation_keeps_deformable_pools_at_rest_and_branches_at_zero():
    net = make("deform_max")
    for pool in net.modules():
        if isinstance(pool, DeformablePool3x3):
            nn.init.normal_(pool.predictor.weight)
    net.init_weights()
    pools = [m for m in net.modules() if isinstance(m, DeformablePool3x3)]
    assert len(pools) == 13
    assert not any(pool.predictor.weight.any() for pool in pools)
    assert not any(block.norm3.weight.any() for block in net.layer3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 18}, "depth = 18: only ResNets of 50, 101, 152 layers"),
        ({"style": "caffe"}, "style = 'caffe'"),
        ({"dcn": {"type": "DCN"}}, "pattern='deform_max'"),
        ({"pattern": "hybird"}, "Did you mean 'hybrid'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_segmentor_of_the_config(model_config, batch):
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    from ndpp_dense.config_files import find_config

    init_default_scope("mmseg")
    node = Config.fromfile(str(find_config("mmseg/deeplabv3_r50_hybrid_ndpp"))).model.backbone
    assert (node.type, node.pattern) == ("PoolingResNetV1c", "hybrid")
    model_config["backbone"].update(type=node.type, pattern=node.pattern, depth=node.depth)
    model_config["decode_head"]["in_channels"], model_config["auxiliary_head"]["in_channels"] = 256, 128
    model = MODELS.build(model_config)
    converted = {name for name, _ in nd_layers(model.backbone)}
    assert "layer2.0.conv2.conv" in converted
    assert len(converted) == 53 + 2 - 13
    data = model.data_preprocessor(batch, True)
    losses = model(data["inputs"], data["data_samples"], mode="loss")
    sum(value for name, value in losses.items() if "loss" in name).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
