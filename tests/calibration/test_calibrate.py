"""Calibrated models against the batch norm models that they come from."""

import copy

import pytest
import torch
import torchvision
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from ndpp_dense import WhiteningConfig, calibrate_ndpp, fold_ndpp, nd_layers

SMALL = {"block_size": 4, "block_size_spatial": 2, "block_size_linear": 4, "sampling_stride": 1}
PLAIN = WhiteningConfig(local_scale="none", **SMALL)


def liven(model, seed=0):
    """Gives norms the statistics and parameters of a model that was trained."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            for tensor, low, high in [
                (module.running_mean, -1, 1),
                (module.running_var, 0.3, 3),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
            ]:
                tensor.data.uniform_(low, high, generator=generator)
    return model


def batches(*shape, count=4, seed=1):
    """Correlated data whose samples differ in scale."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        x = torch.randn(*shape, generator=generator)
        x = x + 0.8 * x.roll(1, 1) + 0.5
        made.append(x * (0.5 + torch.rand(shape[0], *[1] * (len(shape) - 1), generator=generator)))
    return made


def outputs(model, x):
    training = model.training
    with torch.no_grad():
        y = model.eval()(x)
    model.train(training)
    return y


def error(got, expected):
    return ((got - expected).norm() / expected.norm()).item()


@pytest.fixture(scope="module")
def resnet():
    """A ResNet-18 that saw a few training steps, and data like those."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=5)
    data = batches(8, 3, 32, 32, count=5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for x in data:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(8) % 5).backward()
        optimizer.step()
    return model.train(), data


def test_resnet18_without_local_scale_is_the_same_function(resnet):
    original, data = resnet
    model = copy.deepcopy(original)
    before = dict(model.named_parameters())
    report = calibrate_ndpp(model, data, PLAIN)
    assert report.summary() == "21 layers converted to ND++, 0 left plain; 20 norms dropped, 0 kept"
    reasons = {record.name: record.reason for record in report.records}
    assert reasons["layer2.0.downsample.1"] == "folded into 'layer2.0.downsample.0'"
    x = batches(3, 3, 40, 48, seed=9)[0]
    expected = outputs(original, x)
    assert error(outputs(model, x), expected) < 1e-5
    assert error(fold_ndpp(model)(x), expected) < 1e-5
    assert model.training
    assert all(layer.weight is before[f"{name}.weight"] for name, layer in nd_layers(model))
    # It whitens indeed: D is far from the identity, and the weight from the original.
    for name, layer in nd_layers(model):
        identity = torch.eye(layer.whitening.running_whitening.shape[-1])
        assert (layer.whitening.running_whitening - identity).abs().max() > 0.1, name
        assert layer.whitening.running_weight == 1


def test_resnet18_with_local_scale_is_close_and_trains(resnet):
    original, data = resnet
    model = copy.deepcopy(original)
    calibrate_ndpp(model, data, WhiteningConfig(**SMALL))
    steady = batches(8, 3, 32, 32, seed=9)[0]
    steady = steady / steady.abs().mean((1, 2, 3), keepdim=True) * torch.cat(data).abs().mean()
    expected = outputs(original, steady)
    assert error(outputs(model, steady), expected) < 0.06  # 0.051: features of later layers still differ in scale
    before = outputs(model, steady)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(steady), torch.arange(8) % 5)
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(nn.functional.cross_entropy(before, torch.arange(8) % 5).item(), rel=0.2)
    assert losses[-1] < losses[0]


def test_local_scale_in_branches_keeps_the_contrast_of_an_image(resnet):
    original, data = resnet
    trunk = {name: {"local_scale": "none"} for name in ("conv1", "*.downsample.0", "fc")}
    x = batches(8, 3, 32, 32, seed=9)[0]
    assert error(outputs(original, 2 * x), outputs(original, x)) > 1
    changes = []
    for rules in ({}, trunk):
        model = copy.deepcopy(original)
        calibrate_ndpp(model, data, WhiteningConfig(**SMALL), rules)
        changes.append(error(outputs(model, 2 * x), outputs(model, x)))
    assert changes[0] < 1e-5, changes
    assert changes[1] > 1e-3, changes  # 0.007: in this network the branches weigh much


LAYERS = {
    "conv": (nn.Conv2d(8, 6, 3, 2, 1, bias=False), (8, 9, 8)),
    "groups": (nn.Conv2d(8, 6, 3, groups=2, padding=1), (8, 9, 8)),
    "depthwise": (nn.Conv2d(8, 8, 3, groups=8, bias=False), (8, 9, 8)),
    "reflect": (nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect"), (8, 9, 8)),
    "same": (nn.Conv2d(8, 6, (3, 1), padding="same", dilation=2), (8, 9, 8)),
    "1x1": (nn.Conv2d(8, 6, 1, bias=False), (8, 5, 4)),
    "deconv 4/2": (nn.ConvTranspose2d(8, 6, 4, 2, 1, groups=2, bias=False), (8, 5, 4)),
    "deconv 2/2": (nn.ConvTranspose2d(8, 6, 2, 2), (8, 5, 4)),
    "deconv 3/1": (nn.ConvTranspose2d(8, 6, 3, 1, 1), (8, 5, 4)),
    "linear": (nn.Linear(8, 6), (8,)),
}


def layer_and_norm(name):
    """Layer, batch norm and activation, and data for them."""
    layer, shape = LAYERS[name]
    norm = nn.BatchNorm1d(6) if name == "linear" else nn.BatchNorm2d(getattr(layer, "out_channels", 6))
    return liven(nn.Sequential(copy.deepcopy(layer), norm, nn.ReLU())), shape


@pytest.mark.parametrize(
    "fields",
    [{}, {"shared_blocks": True}, {"statistics": "batch", "solver": "quintic"}, {"solver": "eigh", "eps": 1e-3}],
    ids=str,
)
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_keeps_its_function(name, fields):
    model, shape = layer_and_norm(name)
    data = batches(32, *shape)
    expected = [outputs(model, x) for x in data]
    assert calibrate_ndpp(model, data, PLAIN.override(fields)).dropped_norms == ["1"]
    assert max(error(outputs(model, x), y) for x, y in zip(data, expected, strict=True)) < 1e-5
    assert torch.equal(fold_ndpp(model)(data[0]), outputs(model, data[0]))


@pytest.mark.parametrize(
    ("name", "local_scale"),  # "std" is not exact at padded borders and in the phases of a stride
    [(name, "l1") for name in ("groups", "1x1", "deconv 3/1", "deconv 2/2", "linear")]
    + [("1x1", "std"), ("linear", "std")],
)
def test_a_sample_of_average_scale_gets_what_it_got(name, local_scale):
    model, shape = layer_and_norm(name)
    dims = tuple(range(1, 1 + len(shape)))
    data = [2.5 * x / x.abs().mean(dims, keepdim=True) for x in batches(32, *shape)]
    if local_scale == "std":
        data = [1.5 + 2 * (x - x.mean(dims, keepdim=True)) / x.std(dims, keepdim=True) for x in data]
    expected = outputs(model, data[0])
    calibrate_ndpp(model, data, WhiteningConfig(local_scale=local_scale, **SMALL))
    assert error(outputs(model, data[0]), expected) < 1e-5


class Wiring(nn.Module):
    """Two convolutions and norms, defined in an order that misleads, run as a function says."""

    def __init__(self, run, norm=nn.BatchNorm2d):
        super().__init__()
        self.bn2, self.bn1 = norm(4), norm(4)
        self.conv2, self.conv1 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1, bias=False)
        self.run = run
        liven(self)

    def forward(self, x):
        return self.run(self, x)


WIRINGS = {  # norms folded
    "plain": (lambda m, x: m.bn2(m.conv2(m.bn1(m.conv1(x)).relu())), {"bn1": "conv1", "bn2": "conv2"}),
    "crossed": (lambda m, x: m.bn1(m.conv2(m.bn2(m.conv1(x)).relu())), {"bn2": "conv1", "bn1": "conv2"}),
    "before": (lambda m, x: m.conv2(m.bn2(m.conv1(m.bn1(x).relu())).relu()), {"bn2": "conv1"}),
    "written to": (lambda m, x: m.bn2(m.conv2(m.bn1(m.conv1(x).relu_()))), {"bn2": "conv2"}),
    "two norms": (lambda m, x: m.conv2(m.bn1(y := m.conv1(x)) + m.bn2(y)), {}),
    "one norm twice": (lambda m, x: m.bn1(m.conv2(m.bn1(m.conv1(x)))), {}),
    "both twice": (lambda m, x: m.conv2(m.bn1(m.conv1(x)) + m.bn1(m.conv1(2 * x))), {"bn1": "conv1"}),
    "one of two": (lambda m, x: m.conv2(m.bn1(m.conv1(x)) + m.conv1(2 * x)), {}),
    "after a view": (lambda m, x: m.bn2(m.conv2(m.bn1(m.conv1(x).flip(1)))), {"bn2": "conv2"}),
}


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d], ids=lambda n: n.__name__)
@pytest.mark.parametrize("name", WIRINGS)
def test_a_norm_goes_into_the_layer_that_it_gets_its_input_from(name, norm):
    run, folded = WIRINGS[name]
    model = Wiring(run, norm)
    x, *data = batches(16, 4, 6, 6)
    expected = outputs(model, x)
    report = calibrate_ndpp(model, data, PLAIN)
    reasons = {record.name: record.reason for record in report.records}
    assert {norm: reasons[norm] for norm in report.dropped_norms} == {
        norm: f"folded into {layer!r}" for norm, layer in folded.items()
    }
    assert error(outputs(model, x), expected) < 1e-5


def test_an_output_that_is_used_beside_its_norm_is_noticed():
    model = Wiring(lambda m, x: m.bn2(m.conv2(m.bn1(y := m.conv1(x)) + y)))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="computes something else: 'conv2' .after 'conv1'.*used elsewhere"):
        calibrate_ndpp(model, batches(16, 4, 6, 6), PLAIN)
    assert [type(m) for m in model.children()] == [nn.BatchNorm2d] * 2 + [nn.Conv2d] * 2
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    report = calibrate_ndpp(model, batches(16, 4, 6, 6), PLAIN, rules={"bn1": False})
    assert report.dropped_norms == ["bn2"]
    last = Wiring(lambda m, x: (m.bn1(y := m.conv1(x)), y))
    with pytest.raises(ValueError, match="model's output"):
        calibrate_ndpp(last, batches(16, 4, 6, 6), PLAIN, rules={"conv2": False})


def test_a_norm_that_is_zero_makes_a_layer_that_is_zero():
    model = Wiring(lambda m, x: x + m.bn2(m.conv2(m.bn1(m.conv1(x)).relu())))
    nn.init.zeros_(model.bn2.weight)
    x, *data = batches(16, 4, 6, 6)
    expected = outputs(model, x)
    calibrate_ndpp(model, data, PLAIN)
    assert not model.conv2.weight.any()
    assert error(outputs(model, x), expected) < 1e-5


def test_densenet_keeps_the_norms_before_its_layers():
    torch.manual_seed(0)
    model = liven(torchvision.models.DenseNet(4, (2, 2), 8, bn_size=2, num_classes=3))
    x, *data = batches(8, 3, 32, 32)
    expected = outputs(model, x)
    report = calibrate_ndpp(model, data, PLAIN)
    assert [name.rpartition(".")[2] for name in report.dropped_norms] == ["norm0"] + ["norm2"] * 4
    assert error(outputs(model, x), expected) < 1e-5
