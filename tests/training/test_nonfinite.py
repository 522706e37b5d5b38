"""The first layer with a non-finite output must be found, and looking must change nothing."""

import pytest
import torch
from torch import nn

from ndpp_dense import NDConv2d, WhiteningConfig, convert_to_ndpp
from ndpp_dense.training.nonfinite import first_nonfinite_layer


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)), nn.ReLU())
    return model.train()


def find(model, image=None, **options):
    image = torch.randn(2, 3, 5, 5) if image is None else image
    return first_nonfinite_layer(model, lambda: model(image), **options)


def test_finite_is_none(net):
    assert find(net) is None


def test_the_innermost_first_layer_and_its_weight(net):
    with torch.no_grad():
        net[1][0].weight[0] = float("inf")
    layer = find(net)
    assert (layer.name, layer.kind, layer.bad_inputs, layer.bad_weights) == ("1.0", "Conv2d", False, ("weight",))
    assert "'1.0' (Conv2d) with finite input, non-finite weights weight, finite buffers" in str(layer)


def test_a_bad_buffer_is_told_apart(net):
    net.eval()
    net[1][1].running_var.fill_(float("nan"))
    layer = find(net)
    assert (layer.name, layer.bad_weights, layer.bad_buffers) == ("1.1", (), ("running_var",))


def test_a_bad_input_is_told_apart(net):
    layer = find(net, torch.full((2, 3, 5, 5), float("nan")))
    assert (layer.name, layer.bad_inputs) == ("0", True)


def test_hooks_are_gone_and_errors_of_the_model_do_not_hide_the_layer(net):
    class Raises(nn.Module):
        def forward(self, x):
            raise FloatingPointError("proposals are not finite")

    with torch.no_grad():
        net[0].bias[0] = float("nan")
    model = nn.Sequential(net, Raises())
    assert find(model).name == "0.0"
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("alone", [False, True])
def test_looking_changes_no_statistics(alone):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    convert_to_ndpp(model, WhiteningConfig.fast("coco"))
    model.train()
    assert isinstance(model[0], NDConv2d)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert find(model, alone=alone) is None
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    assert all(module.training for module in model.modules())
