"""Networks come by name, plain or converted."""

import pytest
import torch
from torch import nn

from ndpp_dense import nd_layers
from ndpp_dense.pretrain.network import build_network


def test_settings_decide_what_is_whitened(tiny):
    config = tiny(ndpp={"preset": "paper", "block_size_spatial": 2, "rules": {"fc": False, "bn1": True}})
    network = build_network(config, 7)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    layers = dict(nd_layers(network))
    assert "fc" not in layers
    assert len(layers) == len(network.ndpp_report.converted) > 10
    assert {layer.config.statistics for layer in layers.values()} == {"batch"}
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_the_first_layer_has_whole_patches_and_the_papers_stride(tiny):
    network = build_network(tiny(name="resnet18", ndpp={"preset": "fast"}), 2)
    first = network.conv1
    assert tuple(first.whitening.running_mean.shape) == (1, 7 * 7 * 3)
    assert first.whitening.sampling_stride == 3


def test_own_names_and_those_of_timm(tiny):
    assert not list(nd_layers(build_network(tiny(ndpp=None), 2)))
    with pytest.raises(ValueError, match="Unknown backbone 'resnet51'"):
        build_network(tiny(name="resnet51", ndpp=None), 2)


def test_rules_that_fit_no_layer_are_refused(tiny):
    with pytest.raises(ValueError, match="match no linear, norm or attention layer"):
        build_network(tiny(ndpp={"rules": {"conv99": False}}), 2)


@pytest.mark.parametrize("ndpp", [None, {"block_size": 8, "block_size_spatial": 2, "rules": {"bn1": True}}])
def test_what_does_not_train_stays_as_it_is(tiny, trainer, tmp_path, ndpp):
    trainer(tmp_path / "first", ndpp=ndpp, epochs=1).train()
    weights = str(tmp_path / "first" / "last.pth")
    second = trainer(tmp_path / "second", ndpp=ndpp, epochs=1, weights=weights, trainable="fc.*", lr=0.5)
    second.train()
    before, after = (torch.load(path, weights_only=True)["model"] for path in (weights, tmp_path / "second/last.pth"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"fc.weight", "fc.bias"} <= changed
    assert all(name.startswith("fc.") for name in changed)


def test_weights_need_not_have_what_is_trained(tiny, tmp_path, caplog):
    trunk = build_network(tiny(name="vgg16_small_gap", ndpp=None), 2)
    torch.save(trunk.state_dict(), tmp_path / "trunk.pth")
    fitted = {"ndpp": None, "weights": str(tmp_path / "trunk.pth"), "image_size": 64}
    caplog.set_level("INFO", logger="ndpp_dense")
    with_map = build_network(tiny(name="vgg16_small_flatten", trainable="head.*", **fitted), 2)
    assert "started anew: head.weight." in caplog.text
    assert torch.equal(with_map.features[0].weight, trunk.features[0].weight)
    trained = [name for name, parameter in with_map.named_parameters() if parameter.requires_grad]
    assert trained == ["head.weight", "head.bias"]
    with pytest.raises(ValueError, match="does not fit PooledVGG16"):
        build_network(tiny(name="vgg16_small_flatten", **fitted), 2)
    with pytest.raises(ValueError, match=r"trainable = 'fc\.\*' fits no parameter .* 'head.bias'"):
        build_network(tiny(name="vgg16_small_gap", trainable="fc.*", **fitted), 2)


def test_published_weights_of_vgg_fit_without_their_classifier(tiny, tmp_path):
    trunk = build_network(tiny(name="vgg16_small_gap", ndpp=None), 2).state_dict()
    convolutions = {name: value for name, value in trunk.items() if name.startswith("features.")}
    for owner, names in {
        "torchvision": ("classifier.0.weight",),
        "timm": ("pre_logits.fc1.bias", "head.fc.weight"),
    }.items():
        torch.save(convolutions | {name: torch.zeros(2) for name in names}, tmp_path / f"{owner}.pth")
        settings = {"weights": str(tmp_path / f"{owner}.pth"), "trainable": "head.*", "image_size": 64, "ndpp": None}
        network = build_network(tiny(name="vgg16_small_multi_gap", **settings), 2)
        assert torch.equal(network.features[0].weight, trunk["features.0.weight"])
