"""Folded models against the ND++ models that they come from, to the bit."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from ndpp_dense import NDConv2d, NDConvTranspose2d, NDLinear, WhiteningConfig, convert_to_ndpp, fold_ndpp, nd_layers
from ndpp_dense.layers.folded import FoldedConv2d, FoldedConvTranspose2d, FoldedLinear

LAYERS = {
    "conv": (lambda c: NDConv2d(6, 4, 3, 2, 1, groups=2, config=c), (6, 9, 8), FoldedConv2d),
    "conv reflect": (lambda c: NDConv2d(6, 4, 3, padding=1, padding_mode="reflect", config=c), (6, 9, 8), FoldedConv2d),
    "conv same": (lambda c: NDConv2d(6, 4, 3, padding="same", dilation=2, config=c), (6, 9, 8), FoldedConv2d),
    "conv no bias": (lambda c: NDConv2d(6, 4, 1, bias=False, config=c), (6, 9, 8), FoldedConv2d),
    "conv_transpose": (lambda c: NDConvTranspose2d(6, 4, 4, 2, 1, 1, config=c), (6, 5, 4), FoldedConvTranspose2d),
    "linear": (lambda c: NDLinear(6, 4, config=c), (6,), FoldedLinear),
}


def _trained(make, shape, **fields):
    torch.manual_seed(0)
    layer = make(WhiteningConfig(**fields))
    for _ in range(3):
        layer(torch.randn(20, *shape) * 2 + 1)
    return layer


@pytest.mark.parametrize("local_scale", ["l1", "std", "none"])
@pytest.mark.parametrize("statistics", ["ema", "batch"])
@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("name", LAYERS)
def test_equal_to_the_bit(name, shared, statistics, local_scale):
    make, shape, kind = LAYERS[name]
    layer = _trained(make, shape, shared_blocks=shared, statistics=statistics, local_scale=local_scale)
    layer.activation = torch.relu if statistics == "ema" else None
    folded = fold_ndpp(layer)
    x = torch.randn(5, *shape)
    assert torch.equal(folded(x), layer.eval()(x))
    if local_scale != "none" or statistics == "ema" or "transpose" in name:
        assert type(folded) is kind
    assert not any(p.requires_grad for p in folded.parameters())
    assert f"local_scale={local_scale}" in repr(folded) or type(folded).__module__.startswith("torch.")


@pytest.mark.parametrize(("name", "kind"), [("conv", nn.Conv2d), ("conv same", nn.Conv2d), ("linear", nn.Linear)])
def test_without_local_scale_it_is_an_ordinary_layer(name, kind):
    make, shape, _ = LAYERS[name]
    layer = _trained(make, shape, local_scale="none")
    folded = fold_ndpp(layer)
    assert type(folded) is kind
    twin = copy.deepcopy(folded)
    twin.load_state_dict(folded.state_dict())
    x = torch.randn(5, *shape)
    assert torch.equal(twin(x), layer.eval()(x))


@pytest.mark.parametrize("name", ["conv", "conv reflect", "conv same", "linear"])
def test_the_fold_is_the_formula(name):
    """W' = W D and b' = b - W' mean, with D and mean of a whole group put together from its blocks."""
    make, shape, _ = LAYERS[name]
    layer = _trained(make, shape, block_size_spatial=1, block_size_linear=2).double()
    folded, state = fold_ndpp(layer), layer.whitening
    per_group = len(state.running_mean) // getattr(layer, "groups", 1)
    assert per_group > 1
    for output, (weight, bias) in enumerate(zip(layer.weight, layer.bias, strict=True)):
        group = output * getattr(layer, "groups", 1) // len(layer.weight)
        blocks = slice(group * per_group, (group + 1) * per_group)
        expected = weight.flatten() @ torch.block_diag(*state.running_whitening[blocks])
        torch.testing.assert_close(folded.weight[output].flatten(), expected, check_stride=False)
        torch.testing.assert_close(folded.bias[output], bias - expected @ state.running_mean[blocks].flatten())


def test_a_whole_resnet(tmp_path):
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=5)
    convert_to_ndpp(model)
    for _ in range(2):
        model(torch.randn(8, 3, 64, 64) + 0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold_ndpp(model)
    x = torch.randn(2, 3, 64, 64)
    assert model.training  # the original is left as it was
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(list(nd_layers(model))) == 21
    assert list(nd_layers(folded)) == []
    assert not folded.training
    expected = model.eval()(x)
    assert torch.equal(folded(x), expected)
    torch.save(folded.state_dict(), tmp_path / "folded.pt")
    with torch.no_grad():
        for p in folded.parameters():
            p.zero_()
    folded.load_state_dict(torch.load(tmp_path / "folded.pt"))
    assert torch.equal(folded(x), expected)
    assert torch.equal(model(x), expected)  # no storage is shared


def test_layers_held_in_lists_are_folded():
    class Pyramid(nn.Module):  # as Detectron2's FPN holds its convolutions
        def __init__(self):
            super().__init__()
            convs = [nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)]
            for i, conv in enumerate(convs):
                self.add_module(f"lateral{i}", conv)
            self.convs = convs[::-1]

        def forward(self, x):
            for conv in self.convs:
                x = conv(x)
            return x

    model = Pyramid()
    report = convert_to_ndpp(model)
    x = torch.randn(3, 4, 6, 6)
    report.verify(model, x)
    model(x)
    folded = fold_ndpp(model)
    assert [type(conv) for conv in folded.convs] == [FoldedConv2d, FoldedConv2d]
    assert folded.convs[0] is folded.lateral1
    assert torch.equal(folded(x), model.eval()(x))


def test_a_folded_layer_can_be_exported():
    make, shape, _ = LAYERS["conv"]
    folded = fold_ndpp(_trained(make, shape))
    x = torch.randn(2, *shape)
    exported = torch.export.export(folded, (x,)).module()
    torch.testing.assert_close(exported(x), folded(x))


def test_a_model_without_layers_is_refused():
    with pytest.raises(ValueError, match=r"the model has no ND\+\+ layer"):
        fold_ndpp(nn.Sequential(nn.Linear(3, 3)))


def test_a_model_whose_train_returns_nothing_is_verified_and_folded():
    class Backbone(nn.Sequential):  # as MMSegmentation's ResNet
        def train(self, mode=True):
            super().train(mode)

    model = Backbone(nn.Conv2d(3, 4, 1))
    x = torch.randn(2, 3, 4, 4)
    convert_to_ndpp(model).verify(model, x)
    model.eval()
    assert torch.equal(fold_ndpp(model)(x), model(x))
