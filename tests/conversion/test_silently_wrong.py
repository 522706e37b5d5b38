"""Models that a conversion could make compute something else without a word.

Pre-activation blocks, fused kernels, classes of an unusual kind.
With D = I and no local scale a converted model is the original with its dropped norms passed through.
"""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.nn.utils import prune

from ndpp_dense import NDConv2d, WhiteningConfig, convert_to_ndpp, fold_ndpp, nd_layers
from ndpp_dense.conversion.module_surgery import replace_modules

PLAIN = WhiteningConfig(local_scale="none")


class Copy(nn.Module):
    """What a norm that only passes its input on would be: a new tensor."""

    def forward(self, x):
        return x.clone()


def without_norms(model, report):
    """The original model with the norms that conversion dropped passed through."""
    bare = copy.deepcopy(model)
    norms = [bare.get_submodule(name) for name in report.dropped_norms]
    rest = [[m for m in (getattr(n, "drop", None), getattr(n, "act", None)) if m is not None] for n in norms]
    replace_modules(bare, {n: nn.Sequential(Copy(), *r) for n, r in zip(norms, rest, strict=True)})
    return bare


def check(model, *inputs, rules=None):
    """Converted, folded and original without norms must agree, with gradients and without."""
    original = copy.deepcopy(model).double().eval()
    inputs = [x.double() for x in inputs]
    model.double()
    report = convert_to_ndpp(model, PLAIN, rules)
    with torch.no_grad():  # layers that start at zero would hide everything
        for (_, layer), name in zip(nd_layers(model), report.converted, strict=True):
            layer.weight.copy_(original.get_submodule(name).weight)
    bare = without_norms(original, report)
    model.eval()
    expected = bare(*inputs)
    torch.testing.assert_close(model(*inputs), expected)
    with torch.no_grad():
        torch.testing.assert_close(model(*inputs), expected)
        torch.testing.assert_close(fold_ndpp(model)(*inputs), expected)
    model.train()(*inputs).square().mean().backward()
    return report


class PreActivation(nn.Module):
    """``x + conv2(relu_(bn2(conv1(relu_(bn1(x))))))``, its children in the order of use or not."""

    def __init__(self, order, functional):
        super().__init__()
        made = {"bn1": nn.BatchNorm2d(4), "conv1": nn.Conv2d(4, 4, 1), "bn2": nn.BatchNorm2d(4)}
        made["conv2"] = nn.Conv2d(4, 4, 1)
        for name in order.split():
            self.add_module(name, made[name])
        self.relu = (lambda x: F.relu(x, inplace=True)) if functional else nn.ReLU(inplace=True)

    def forward(self, x):
        x = x + 0
        return x + self.conv2(self.relu(self.bn2(self.conv1(self.relu(self.bn1(x))))))


@pytest.mark.parametrize("functional", [False, True], ids=["module", "functional"])
@pytest.mark.parametrize("order", ["bn1 conv1 bn2 conv2", "conv1 bn1 conv2 bn2"], ids=["as used", "convolutions first"])
def test_an_in_place_activation_does_not_write_over_the_shortcut(order, functional):
    check(nn.Sequential(PreActivation(order, functional)), torch.randn(2, 4, 5, 5))


def test_the_output_of_a_layer_that_is_used_twice_is_not_written_over():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.relu = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)

        def forward(self, x):
            y = self.conv(x)
            self.conv(x * 2)  # the last output is another one
            return y + self.relu(self.bn(y))

    check(nn.Sequential(Twice()), torch.randn(2, 3, 5, 5))


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("resnetv2_18", "coatnet_pico_rw_224", "densenet121")]


@pytest.mark.parametrize("name", ["dpn48b", *SLOW])
def test_pre_activation_networks_of_timm(name):
    size = 224 if "224" in name else 64
    check(timm.create_model(name, num_classes=3), torch.randn(2, 3, size, size))


def test_a_layer_whose_output_the_norm_alone_gets_is_not_copied():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    convert_to_ndpp(model, PLAIN)
    made = []
    model[0].register_forward_hook(lambda module, args, y: made.append(y))
    out = model(torch.randn(2, 3, 5, 5))
    assert out is made[0]
    folded = fold_ndpp(model)
    assert type(folded[0]) is nn.Conv2d
    assert type(folded[1]) is nn.Identity
    copied = copy.deepcopy(model)
    torch.testing.assert_close(copied(torch.ones(1, 3, 2, 2)), model(torch.ones(1, 3, 2, 2)))


class Reused(nn.Module):
    """The output of a layer goes into its norm, and beside it somewhere else."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.kept = kind, []
        self.stem, self.bn, self.relu = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(4, 4, 1)
        if kind == "carried by the norm":
            self.bn, self.relu = timm.layers.BatchNormAct2d(4), nn.Identity()

    def forward(self, x):
        x = self.stem(x)
        y = self.conv(self.relu(self.bn(x)))
        return torch.cat([x, y], 1) if self.kind == "concatenated" else x + y


@pytest.mark.parametrize("kind", ["added", "concatenated", "carried by the norm"])
def test_the_output_of_a_layer_beside_its_norm_is_not_written_over(kind):
    check(nn.Sequential(Reused(kind)), torch.randn(2, 3, 5, 5))


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_fused_transformer_layers_run_the_converted_ones(gradients, masked):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    original = nn.TransformerEncoder(layer, 2).eval()
    model = copy.deepcopy(original)
    original.use_nested_tensor = False  # PyTorch warns of its own nested tensors
    report = convert_to_ndpp(model, PLAIN)
    assert report.converted == [f"layers.{i}.{name}" for i in (0, 1) for name in ("linear1", "linear2")]
    with torch.no_grad():
        for _, converted in nd_layers(model):
            converted.weight.mul_(0.5)
            converted.whitening.running_whitening.mul_(2)  # the same product, unless the weight is read alone
    x = torch.randn(2, 5, 8)
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2]) if masked else None
    for run in (model, fold_ndpp(model)):
        with torch.set_grad_enabled(gradients):
            found, expected = (m(x, src_key_padding_mask=mask) for m in (run, original))
        kept = slice(None) if mask is None else ~mask
        torch.testing.assert_close(found[kept], expected[kept])


def test_attention_that_reads_its_weights_is_left():
    model = nn.Sequential(nn.Linear(8, 8), nn.MultiheadAttention(8, 2))
    reasons = {record.name: record.reason for record in convert_to_ndpp(model).records}
    assert "reads its weight" in reasons["1.out_proj"]
    assert "its projections are one parameter" in reasons["1"]


def _frozen(name, with_eps):
    """A frozen batch norm as Hugging Face's models have one, by any name, that keeps its eps or not."""

    def start(self, n):
        nn.Module.__init__(self)
        for own, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(own, torch.full((n,), value))
        if with_eps:
            self.eps = 1e-3

    def forward(self, x):
        scale = self.weight * (self.running_var + (1e-3 if with_eps else 1e-5)).rsqrt()
        return (x - self.running_mean.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)

    return type(name, (nn.Module,), {"__init__": start, "forward": forward})


@pytest.mark.parametrize(
    "make",
    [
        torchvision.ops.FrozenBatchNorm2d,
        lambda n: timm.layers.FrozenBatchNormAct2d(n),
        _frozen("DetrFrozenBatchNorm2d", False),
        _frozen("ConditionalDetrFrozenBatchNorm2d", True),
    ],
    ids=["torchvision", "timm", "Hugging Face", "with eps"],
)
def test_frozen_norms_go_by_whatever_name(make):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), make(4), nn.Conv2d(4, 4, 3))
    report = check(model, torch.randn(2, 3, 8, 8))
    assert report.dropped_norms == ["1"]


@pytest.mark.parametrize("first", [nn.Conv3d, nn.Conv1d], ids=["3d", "1d"])
def test_the_norm_of_a_convolution_that_stays_stays(first):
    """A linear layer far behind it has nothing to do with it."""
    dims = 3 if first is nn.Conv3d else 1
    norm = nn.BatchNorm3d(6) if dims == 3 else nn.BatchNorm1d(6)
    pool = nn.AdaptiveAvgPool3d(1) if dims == 3 else nn.AdaptiveAvgPool1d(1)
    model = nn.Sequential(first(3, 6, 3), norm, nn.ReLU(), pool, nn.Flatten(), nn.Linear(6, 2))
    report = convert_to_ndpp(model, PLAIN, {"0": False})
    assert report.dropped_norms == []
    assert {record.name: record.action for record in report.records}["1"] == "kept"
    assert report.left == ["0"]


class Standardised(nn.Conv2d):
    """Weight standardisation with a norm and an activation, as several code bases have it."""

    def __init__(self, *args, norm=None, activation=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm, self.activation = norm, activation

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        x = F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        x = x if self.norm is None else self.norm(x)
        return x if self.activation is None else self.activation(x)


class Checked(nn.Conv2d):
    """Only calls its parent."""

    def forward(self, x):
        return super().forward(x)


class LeakyNorm(nn.BatchNorm2d):
    """Carries an activation that nothing but its forward knows of."""

    def forward(self, x):
        return F.leaky_relu(super().forward(x))


class QuietNorm(nn.BatchNorm2d):
    """Only calls its parent."""

    def forward(self, x):
        return super().forward(x)


def test_a_forward_of_its_own_is_told_by_running_it():
    detectron = pytest.importorskip("detectron2.layers", reason="Detectron2 is not installed")
    model = nn.ModuleDict(
        {
            "standardised": Standardised(3, 4, 3, norm=nn.BatchNorm2d(4), activation=nn.ReLU()),
            "checked": Checked(3, 4, 3),
            "detectron2": detectron.Conv2d(3, 4, 3, norm=nn.BatchNorm2d(4), activation=F.relu),
            "response norm": detectron.Conv2d(3, 4, 3, norm=nn.LocalResponseNorm(2)),
            "leaky": detectron.Conv2d(3, 4, 3, norm=LeakyNorm(4)),
        }
    )
    report = convert_to_ndpp(model, PLAIN)
    assert report.converted == ["checked", "detectron2"]
    reasons = {record.name: record.reason for record in report.records}
    assert reasons["standardised"] == "Standardised has a forward of its own"
    assert reasons["response norm"] == "its own norm (LocalResponseNorm) would be lost"
    assert reasons["leaky"] == "its own norm (LeakyNorm) would be lost"


def test_a_norm_with_a_forward_of_its_own_stays():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), LeakyNorm(4), nn.Conv2d(4, 4, 3), QuietNorm(4))
    report = check(model, torch.randn(2, 3, 8, 8))
    assert report.dropped_norms == ["3"]
    assert isinstance(model[1], LeakyNorm)


@pytest.mark.parametrize("wrapper", ["Conv2d", "ConvTranspose2d", "Linear"])
def test_wrappers_of_mmcv_are_converted(wrapper):
    bricks = pytest.importorskip("mmcv.cnn.bricks.wrappers", reason="mmcv is not installed")
    made = getattr(bricks, wrapper)(4, 4) if wrapper == "Linear" else getattr(bricks, wrapper)(4, 4, 3)
    assert convert_to_ndpp(nn.Sequential(made), PLAIN).converted == ["0"]


def test_hooks_attributes_and_buffers_are_carried_over():
    conv, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
    seen = []
    handle = conv.register_forward_hook(lambda module, args, y: seen.append(type(module)))
    conv.register_forward_pre_hook(lambda module, args, kwargs: seen.append("before"), with_kwargs=True)
    conv.register_full_backward_hook(lambda module, g, h: seen.append("backward"))
    norm.register_forward_hook(lambda *_: seen.append("norm"))
    conv.stage, conv.child = 3, nn.Linear(2, 2)
    conv.register_buffer("mark", torch.ones(2), persistent=False)
    model = nn.Sequential(conv, norm)
    convert_to_ndpp(model, PLAIN)
    model(torch.randn(1, 3, 5, 5, requires_grad=True)).sum().backward()
    assert seen == ["before", NDConv2d, "norm", "backward"]
    assert (model[0].stage, model[0].mark.tolist()) == (3, [1.0, 1.0])
    assert "0.mark" not in model.state_dict()
    handle.remove()
    seen.clear()
    fold_ndpp(model)(torch.randn(1, 3, 5, 5))
    assert seen == ["before", "norm"]


@pytest.mark.parametrize("name", ["config", "whitening", "forward"])
def test_an_attribute_that_would_be_lost_is_refused_by_name(name):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    setattr(model[0], name, (lambda x: F.conv2d(x, model[0].weight) * 2) if name == "forward" else 1)
    report = convert_to_ndpp(model, PLAIN)
    assert report.left == ["0"]
    assert report.records[0].reason == f"its own attribute {name!r} would be lost"


@pytest.mark.parametrize("other", ["converted", "left"])
def test_a_tied_weight_does_not_become_zero_with_one_of_its_layers(other):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    nn.init.zeros_(model[1].weight)
    model[2].weight = model[0].weight
    report = convert_to_ndpp(model, PLAIN, {"2": other == "converted"})
    assert model[2].weight is model[0].weight
    assert model[0].weight.any()
    assert "its weight is another's too" in {record.name: record.reason for record in report.records}["1"]


def test_every_module_with_weights_is_in_the_report():
    model = nn.ModuleDict(
        {
            "conv": nn.Conv2d(3, 4, 3),
            "volume": nn.Conv3d(3, 4, 3),
            "line": nn.Conv1d(3, 4, 3),
            "bilinear": nn.Bilinear(3, 4, 3),
            "scripted": torch.jit.script(nn.Conv2d(3, 4, 3)),
            "recurrent": nn.LSTM(3, 4),
            "layer norm": nn.LayerNorm(4),
            "embedding": nn.Embedding(3, 4),
            "prelu": nn.PReLU(),
        }
    )
    report = convert_to_ndpp(model, PLAIN)
    assert {record.name: record.action for record in report.records} == {
        **dict.fromkeys(("conv", "volume", "line"), "converted"),
        **dict.fromkeys(("bilinear", "scripted", "recurrent"), "left"),
        "layer norm": "kept",
        "embedding": "other",
        "prelu": "other",
    }
    assert all(record.reason for record in report.records)
    assert "3 layers converted to ND++, 3 left plain; 0 norms dropped, 1 kept" in str(report)


@pytest.mark.parametrize("fault", ["pruned bias", "complex weight"])
def test_weights_that_cannot_be_whitened_are_left(fault):
    odd = nn.Linear(4, 4, dtype=torch.complex64 if fault == "complex weight" else None)
    if fault == "pruned bias":
        prune.random_unstructured(odd, "bias", amount=1)
    report = convert_to_ndpp(nn.Sequential(odd, nn.Linear(4, 4)), PLAIN)
    assert report.left == ["0"]
