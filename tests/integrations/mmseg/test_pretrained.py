"""``init_cfg`` must load an ND++ checkpoint as a whole, statistics included, and refuse what would load in half."""

import logging

import pytest
import torch

from ndpp_dense import nd_layers

pytestmark = pytest.mark.mmseg


@pytest.fixture
def trained(build):
    """Return a function that makes a segmentor whose weights and statistics have moved; arguments as for ``build``."""

    def make(**options):
        model = build(**options)
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
            for _ in range(2):
                model.train()
                model(torch.randn(2, 3, 64, 64, generator=generator) * 2 + 1, mode="tensor")
        return model

    return make


def pretrained(file, **options):
    return {"init_cfg": {"type": "Pretrained", "checkpoint": str(file), **options}}


def save(entries, file, key="state_dict"):
    torch.save({key: entries} if key else entries, file)
    return file


@pytest.mark.parametrize("preset", ["paper", "fast"])
@pytest.mark.parametrize("whole", [True, False], ids=["segmentor", "backbone"])
def test_all_weights_and_statistics_are_those_of_the_file(trained, build, same_weights, tmp_path, preset, whole):
    source = trained(preset=preset)
    expected = source.backbone.state_dict()
    file = save((source if whole else source.backbone).state_dict(), tmp_path / "nd.pth", "state_dict" if whole else "")
    model = build(preset=preset, backbone=pretrained(file, **({"prefix": "backbone."} if whole else {})))
    before = model.decode_head.bottleneck.conv.whitening.running_cov.clone()
    assert len(same_weights(model.backbone.state_dict(), expected)) == len(expected)
    model.init_weights()
    assert same_weights(model.backbone.state_dict(), expected) == []
    statistics = {name.rpartition(".")[2] for name in expected if ".whitening." in name}
    assert statistics == {"running_mean", "running_cov", "running_whitening", "running_weight"}
    assert torch.equal(model.decode_head.bottleneck.conv.whitening.running_cov, before)  # only the backbone's


def test_the_log_says_how_much_was_found(trained, build, tmp_path, caplog):
    from mmengine.logging import MMLogger

    entries = trained().backbone.state_dict()
    file = save(entries, tmp_path / "nd.pth", "")
    model = build(backbone=pretrained(file))
    logger = MMLogger.get_current_instance()  # hands nothing on to the root logger
    logger.addHandler(caplog.handler)
    try:
        model.init_weights()
    finally:
        logger.removeHandler(caplog.handler)
    assert f"takes {len(entries)} of its {len(entries)} weights from {file}, 0 unmatched" in caplog.text


@pytest.mark.parametrize(("written", "read"), [("fresh", "every=3"), ("every=3", "fresh"), ("every=3", "every=3")])
def test_the_file_may_be_of_another_schedule(trained, build, tmp_path, written, read):
    source = trained(schedule=written)
    file = save(source.backbone.state_dict(), tmp_path / "nd.pth", "")
    model = build(schedule=read, backbone=pretrained(file))
    model.init_weights()
    for (_, layer), (_, other) in zip(nd_layers(model.backbone), nd_layers(source.backbone), strict=True):
        assert torch.equal(layer.whitening.running_cov, other.whitening.running_cov)
        if written == read:
            assert torch.equal(layer.whitening.turns.phase, other.whitening.turns.phase)


def test_the_registered_backbone_loads_too(trained, model_config, same_weights, tmp_path):
    from mmengine.registry import MODELS

    source = trained()
    settings = {**model_config["backbone"], "type": "NDResNetV1c", "ndpp": {"preset": "fast"}}
    file = save(source.state_dict(), tmp_path / "nd.pth")
    backbone = MODELS.build({**settings, **pretrained(file, prefix="backbone")})
    backbone.init_weights()
    assert same_weights(backbone.state_dict(), source.backbone.state_dict()) == []


def test_frozen_stages_use_the_loaded_statistics(trained, build, same_weights, tmp_path):
    source = trained()
    file = save(source.backbone.state_dict(), tmp_path / "nd.pth")
    model = build(backbone={**pretrained(file), "frozen_stages": 1})
    model.init_weights()
    model.train()
    model(torch.randn(2, 3, 64, 64), mode="tensor")
    frozen, expected = model.backbone.layer1.state_dict(), source.backbone.layer1.state_dict()
    assert same_weights(frozen, expected) == []


def test_a_checkpoint_with_batch_norms_is_refused(build, tmp_path):
    file = save(build(type="EncoderDecoder").backbone.state_dict(), tmp_path / "bn.pth")
    model = build(backbone=pretrained(file))
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    pattern = (
        r"bn.pth does not fit ResNetV1c: 22 of 22 ND\+\+ layers lack entries, the first: stem.0.bias, "
        r"stem.0.whitening.running_cov, .*running_mean.* It has 22 batch norms instead, the first 'layer1.0.bn1'"
    )
    with pytest.raises(ValueError, match=pattern):
        model.init_weights()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.backbone.state_dict().items())


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        (None, r"none of the 22 ND\+\+ layers. Set prefix='backbone.': there it has 'stem.0'"),
        ("encoder.", "below 'encoder.' does not fit .* Set prefix='backbone.'"),
    ],
)
def test_a_wrong_prefix_names_the_right_one(trained, build, tmp_path, prefix, message):
    file = save(trained().state_dict(), tmp_path / "nd.pth")
    with pytest.raises(ValueError, match=message):
        build(backbone=pretrained(file, prefix=prefix)).init_weights()


def test_other_block_sizes_are_refused(trained, build, tmp_path):
    file = save(trained(block_size_spatial=2).backbone.state_dict(), tmp_path / "nd.pth")
    pattern = r"another shape, the first: \S+running\w+ is \(.*\), not \(.*\)\. Was it trained with other block sizes"
    with pytest.raises(ValueError, match=pattern):
        build(backbone=pretrained(file), block_size_spatial=4).init_weights()


def test_entries_beside_the_layers_are_logged(trained, build, same_weights, tmp_path):
    """A classifier that is left over is no fault, nor are layers that the file has not; but they are named."""
    from mmengine.logging import MMLogger

    source = trained().backbone
    entries = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("layer4.")}
    file = save({**entries, "fc.weight": torch.zeros(2, 2)}, tmp_path / "nd.pth")
    model = build(backbone=pretrained(file))
    records = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        model.init_weights()
    finally:
        logger.removeHandler(handler)
    (warning,) = [text for text in records if "do not match exactly" in text]
    assert "fc.weight" in warning
    assert "layer4.0.conv1.whitening.running_mean" in warning
    loaded = {name: tensor for name, tensor in model.backbone.state_dict().items() if name in entries}
    assert same_weights(loaded, entries) == []


def test_networks_without_nd_layers_load_as_ever(build, same_weights, tmp_path):
    source = build(type="EncoderDecoder").backbone
    with torch.no_grad():
        source.stem[1].weight.fill_(0.5)
    model = build(type="EncoderDecoder", backbone=pretrained(save(source.state_dict(), tmp_path / "bn.pth")))
    assert not any(nd_layers(model))
    model.init_weights()
    assert same_weights(model.backbone.state_dict(), source.state_dict()) == []
