"""Any built segmentor must convert as a whole, and keep what MMSegmentation does with it."""

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ndpp_dense import NDConv2d, fold_ndpp, nd_layers

pytestmark = pytest.mark.mmseg


def test_every_convolution_is_converted_with_a_bias_and_conv_seg_left(build):
    model = build()
    plain = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and not isinstance(m, NDConv2d)]
    assert plain == ["decode_head.conv_seg", "auxiliary_head.conv_seg"]
    assert not any(isinstance(m, _BatchNorm) for m in model.modules())
    converted = dict(nd_layers(model))
    assert len(converted) == 3 + 16 + 3 + 4 + 2 + 1  # stem, blocks, shortcuts, ASPP, its ends, auxiliary
    assert all(layer.bias is not None for layer in converted.values())
    assert "decode_head.image_pool.1.conv" in converted
    assert f"{len(converted)} layers converted" in model.ndpp_report.summary()


def test_initialisation_reaches_converted_layers(build):
    model = build()
    before = {name: p.clone() for name, p in model.named_parameters()}
    model.init_weights()
    changed = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert "backbone.layer1.0.conv1.weight" in changed
    layer = model.backbone.layer4[1].conv1  # 64 outputs of 3x3
    assert layer.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    assert not any(layer.bias.any() for _, layer in nd_layers(model))


@pytest.mark.parametrize("zero", [True, False])
def test_residual_branches_start_as_the_config_says(build, zero):
    model = build(backbone={"zero_init_residual": zero})
    model.init_weights()
    weights = {name: layer.weight for name, layer in nd_layers(model.backbone)}
    assert [name for name, weight in weights.items() if not weight.any()] == (
        [name for name in weights if name.endswith("conv2")] if zero else []
    )


def loss(model, batch):
    data = model.data_preprocessor(batch, True)
    losses = model(data["inputs"].to(next(model.parameters()).dtype), data["data_samples"], mode="loss")
    return sum(value for name, value in losses.items() if "loss" in name)


def test_training_step_reaches_every_parameter(build, batch):
    model = build().train()
    loss(model, batch).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_folded_model_gives_the_same_prediction(build, batch):
    model = build().train()
    loss(model, batch)
    model.eval()
    inputs = model.data_preprocessor(batch, False)["inputs"]
    with torch.no_grad():
        assert torch.equal(model(inputs, mode="tensor"), fold_ndpp(model)(inputs, mode="tensor"))


def test_checkpointing_changes_neither_gradients_nor_statistics(build, batch):
    pairs = []
    for with_cp in (False, True):
        model = build(backbone={"with_cp": with_cp}).double().train()  # float64: rounding must not hide a difference
        torch.manual_seed(3)
        loss(model, batch).backward()
        pairs.append((model, [p.grad for p in model.parameters()]))
    (plain, gradients), (checkpointed, others) = pairs
    assert checkpointed.backbone.layer1[0].with_cp
    for expected, gradient in zip(gradients, others, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-12)
    for (name, expected), (_, buffer) in zip(plain.named_buffers(), checkpointed.named_buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, rtol=1e-10, atol=1e-12, msg=name)


def test_frozen_stages_keep_their_statistics(build, batch):
    model = build(backbone={"frozen_stages": 1}).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    loss(model, batch).backward()
    moved = {name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}
    assert not any(name.startswith(("backbone.stem", "backbone.layer1.")) for name in moved)
    assert any(name.startswith("backbone.layer2.") for name in moved)
    assert model.backbone.stem[0].bias.grad is None


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_bfloat16_training_is_finite_and_near(build, batch, preset):
    model = build(preset=preset).train()
    torch.manual_seed(0)
    expected = loss(model, batch)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(model, batch)
    value.backward()
    assert value.item() == pytest.approx(expected.item(), rel=0.1)
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_one_image_is_enough(build, batch):
    model = build(preset="paper").train()
    single = {name: values[:1] for name, values in batch.items()}
    loss(model, single).backward()  # the pooled branch sees one position: batch normalisation refuses it
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_rules_and_settings(build):
    model = build(preset="paper", eps=0.5, rules={"backbone.stem.*": False, "decode_head.*": {"block_size": 8}})
    names = {name: layer.config for name, layer in nd_layers(model)}
    assert not any(name.startswith("backbone.stem") for name in names)
    assert names["decode_head.bottleneck.conv"].block_size == 8
    assert names["backbone.layer1.0.conv1"].eps == 0.5
    assert isinstance(model.backbone.stem[1], _BatchNorm)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block_sise": 8}, "no key 'block_sise'. Did you mean 'block_size'"),
        ({"preset": "papers"}, "Did you mean 'paper'"),
        ({"rules": {"backbone.stm.0": False}}, "match no linear, norm or attention layer"),
        ({"rules": {"*.conv1": {"epps": 1}}}, "no field 'epps'. Did you mean 'eps'"),
    ],
)
def test_wrong_settings_name_the_nearest(build, settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_conversion_by_layer_types_gives_the_same_network(build, model_config):
    """``conv_cfg`` and ``norm_cfg`` build what conversion makes."""
    from mmengine.registry import MODELS

    converted = build().backbone
    config = {**model_config["backbone"], "norm_cfg": {"type": "NoNorm"}, "conv_cfg": {"type": "NDConv2d"}}
    built = MODELS.build(config)
    built.load_state_dict(converted.state_dict())
    registered = MODELS.build({**model_config["backbone"], "type": "NDResNetV1c", "ndpp": {"preset": "fast"}})
    registered.load_state_dict(converted.state_dict())
    x = torch.randn(2, 3, 64, 64)
    for net in (converted, built, registered):
        net.train()
    for expected, *others in zip(converted(x), built(x), registered(x), strict=True):
        assert all(torch.equal(expected, other) for other in others)


def test_linear_and_transposed_layers_are_registered():
    from mmengine.registry import MODELS

    import ndpp_dense.integrations.mmseg  # noqa: F401

    linear = MODELS.build({"type": "NDLinear", "in_features": 8, "out_features": 4, "bias": False, "preset": "paper"})
    up = MODELS.build({"type": "NDConvTranspose2d", "in_channels": 8, "out_channels": 4, "kernel_size": 2, "stride": 2})
    assert linear.bias is not None
    assert linear(torch.randn(16, 8)).shape == (16, 4)
    assert up(torch.randn(1, 8, 4, 4)).shape == (1, 4, 8, 8)
