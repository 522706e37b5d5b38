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
    with pytest.raises(ValueError, match="match no linear or norm layer"):
        build_network(tiny(ndpp={"rules": {"conv99": False}}), 2)
