"""Which layer a norm goes with, and which layers stay, as a forward pass of the original model shows it."""

import copy
import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from ndpp_dense import WhiteningConfig, convert_to_ndpp, nd_layers
from ndpp_dense.conversion.dataflow import watch
from ndpp_dense.conversion.examples import watch_guessed


def conv(channels=6, size=1):
    return nn.Conv2d(6, channels, size, padding=size // 2)


class Net(nn.Module):
    """Holds modules in some order and runs them in another."""

    def __init__(self, run, **modules):
        super().__init__()
        self.run = run
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x):
        return self.run(self, x)


def parallel_lists(self, x):
    for layer, norm in zip(self.convs, self.bns, strict=True):
        x = F.relu(norm(layer(x)))
    return x


def split_and_joined(self, x):
    parts = [layer(part) for layer, part in zip(self.convs, x.split(3, 1), strict=True)]
    return self.bn(torch.cat(parts, 1))


def after_a_residual(self, x):
    x = self.conv1(x)
    return self.conv2(F.relu(self.bn(x + self.conv3(x))))


def summed(self, x):
    return self.act(self.bn1(self.conv1(x)) + self.bn2(x))


def read_beside(self, x):
    y = self.bn(x)
    return self.conv1(y) + y


BN = nn.BatchNorm2d
CASES = {  # model, norm -> the layers that it goes with, or None where it stays
    "parallel lists, as res2net": (
        lambda: Net(
            parallel_lists,
            convs=nn.ModuleList([conv(), conv()]),
            bns=nn.ModuleList([BN(6), BN(6)]),
        ),
        {"bns.0": "with 'convs.0'", "bns.1": "with 'convs.1'"},
    ),
    "behind a container, as xception": (
        lambda: Net(
            lambda self, x: self.bn(self.separable(x)),
            separable=Net(lambda self, x: self.pw(self.dw(x)), pw=conv(), dw=conv()),
            bn=BN(6),
        ),
        {"bn": "with 'separable.pw'"},
    ),
    "behind a residual sum, as mobilevitv2": (
        lambda: Net(after_a_residual, conv1=conv(), conv3=conv(), bn=BN(6), conv2=conv()),
        {"bn": "with 'conv2'"},
    ),
    "several layers behind it, as nextvit": (
        lambda: Net(
            lambda self, x: torch.stack([layer(self.bn(x)) for layer in (self.q, self.k)]),
            bn=BN(6),
            q=conv(),
            k=conv(),
        ),
        {"bn": "with 'k', 'q'"},
    ),
    "layers beside one another, as mixnet": (
        lambda: Net(
            split_and_joined,
            convs=nn.ModuleList([nn.Conv2d(3, 2, 1), nn.Conv2d(3, 4, 3, padding=1)]),
            bn=BN(6),
        ),
        {"bn": "with 'convs.0', 'convs.1'"},
    ),
    "a branch without a layer, as RepVGG": (
        lambda: Net(summed, bn2=BN(6), conv1=conv(), bn1=BN(6), act=nn.ReLU()),
        {"bn1": "with 'conv1'", "bn2": None},
    ),
    "a sum of layers, as repvit": (
        lambda: Net(
            lambda self, x: self.bn(self.conv1(x) + self.conv2(x) + x), conv1=conv(), conv2=conv(6, 3), bn=BN(6)
        ),
        {"bn": None},
    ),
    "used beside a layer": (lambda: Net(read_beside, bn=BN(6), conv1=conv()), {"bn": None}),
    "returned": (lambda: Net(lambda self, x: self.bn(x), conv1=conv(), bn=BN(6)), {"bn": None}),
    "written to before it": (
        lambda: Net(lambda self, x: self.bn(self.conv1(x).relu_()), conv1=conv(), bn=BN(6)),
        {"bn": None},
    ),
    "pooled before it": (
        lambda: Net(lambda self, x: self.bn(F.max_pool2d(self.conv1(x), 2)), conv1=conv(), bn=BN(6)),
        {"bn": None},
    ),
    "through an activation of several operations": (
        lambda: Net(
            lambda self, x: self.conv1((lambda y: y * torch.sigmoid(1.7 * y))(self.bn(x))), bn=BN(6), conv1=conv()
        ),
        {"bn": "with 'conv1'"},
    ),
    "of another layout": (
        lambda: Net(lambda self, x: self.bn(self.fc(x.mean((2, 3)))), fc=nn.Linear(6, 6), bn=nn.BatchNorm1d(6)),
        {"bn": "with 'fc'"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_norms_go_with_the_layers_that_feed_them_or_that_they_feed(case):
    make, expected = CASES[case]
    model = make()
    report = convert_to_ndpp(model, example=torch.randn(2, 6, 8, 8))
    reasons = {r.name: r.reason if r.action == "dropped" else None for r in report.records if "bn" in r.name}
    assert reasons == expected


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("res2net50_26w_4s", 0),
        ("xception41", 0),
        ("mixnet_s", 0),
        ("mobilevitv2_050", 0),
        ("repvgg_a0", 17),
        ("repvit_m0_9", 23),
        ("nextvit_small", 4),
    ],
)
def test_networks_of_timm(name, kept):
    with torch.device("meta"):
        model = timm.create_model(name)
    report = convert_to_ndpp(model)
    assert len([record for record in report.records if record.action == "kept"]) == kept
    dropped = [record for record in report.records if record.action == "dropped"]
    assert all(record.reason.startswith("with ") for record in dropped)


@pytest.mark.parametrize("starts", ["beside one another", "one"])
def test_a_norm_that_starts_at_zero_starts_all_its_layers_there(starts):
    model = CASES["layers beside one another, as mixnet"][0]()
    if starts == "one":
        model = nn.Sequential(nn.Conv2d(6, 6, 1), BN(6))
    norm = model.bn if starts != "one" else model[1]
    nn.init.zeros_(norm.weight)
    with torch.no_grad():
        norm.bias.copy_(torch.arange(6.0))
    convert_to_ndpp(model, example=torch.zeros(2, 6, 5, 5))
    layers = [layer for _, layer in nd_layers(model)]
    assert not any(layer.weight.any() for layer in layers)
    assert torch.cat([layer.bias for layer in layers]).tolist() == list(range(6))
    assert model.eval()(torch.randn(2, 6, 5, 5))[0, :, 0, 0].tolist() == list(range(6))


class Attention(nn.Module):
    """Reads the weight of its projection, as BEiT, EVA and Swin V2 do."""

    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 24, bias=False), nn.Linear(8, 8)
        self.bias = nn.Parameter(torch.zeros(24))

    def forward(self, x):
        q, k, v = F.linear(x, self.qkv.weight, self.bias).chunk(3, -1)
        return self.proj(F.scaled_dot_product_attention(q, k, v))


def test_layers_whose_weight_others_read_are_left():
    model = nn.Sequential(nn.Linear(4, 8), Attention())
    report = convert_to_ndpp(model)
    assert report.converted == ["0", "1.proj"]
    assert {r.name: r.reason for r in report.records}["1.qkv"].startswith("something else reads its weight")
    report.verify(model, torch.randn(2, 5, 4))
    assert convert_to_ndpp(nn.Sequential(nn.Linear(4, 8), Attention()), rules={"1.qkv": True}).left == ["1.qkv"]


def test_a_layer_that_is_called_by_its_forward_and_one_with_a_tied_weight_are_converted():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.fc, self.head = nn.Embedding(8, 4), nn.Linear(4, 4), nn.Linear(4, 8, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(self.fc.forward(self.embed(x)))

    report = convert_to_ndpp(Odd(), example=(torch.tensor([[1, 2]]),))
    assert report.converted == ["fc", "head"]


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "swinv2_tiny_window8_256", "eva02_tiny_patch14_224"])
def test_attention_of_timm_that_reads_its_weights_passes_verification(name):
    model = timm.create_model(name, depth=1) if "swin" not in name else timm.create_model(name, depths=(1, 1, 1, 1))
    report = convert_to_ndpp(model, WhiteningConfig(block_size_linear=16))
    report.verify(model, torch.zeros(1, 3, *model.pretrained_cfg["input_size"][1:]))


class Tower(nn.Module):
    """A detector's head: the same layers on every level of a pyramid."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.tower = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU())
        self.score = nn.Conv2d(4, 1, 1)

    def forward(self, x):
        x = self.stem(x)
        levels = [x, F.max_pool2d(x, 2), F.max_pool2d(x, 4)]
        return torch.cat([self.score(self.tower(level)).flatten(1) for level in levels], 1)


def test_a_tower_that_pyramid_levels_share_is_left_and_trains():
    torch.manual_seed(0)
    model = Tower()
    report = convert_to_ndpp(model, WhiteningConfig.fast("coco"))
    assert report.converted == ["stem"]
    assert {r.name: r.reason for r in report.records}["tower.0"].startswith("runs at several sizes")
    assert {r.name: r.action for r in report.records}["tower.1"] == "kept"
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    x = torch.randn(4, 3, 16, 16)
    target = torch.cat([F.max_pool2d(x[:, :1], s).flatten(1) for s in (1, 2, 4)], 1)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_a_rule_converts_what_runs_at_several_sizes():
    assert convert_to_ndpp(Tower(), rules={"tower.0": True}).converted == ["stem", "tower.0"]


def test_a_guess_leaves_the_model_as_it_was():
    calls = []
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    model[0].register_forward_hook(lambda *_: calls.append(1))
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert watch_guessed(model) is not None
    assert torch.equal(torch.get_rng_state(), state)
    assert calls == []
    assert all(m.training and "forward" not in vars(m) for m in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.LazyConv2d(4, 3), nn.Conv2d(4, 4, 1)),
        Net(lambda self, x: 1 / 0, conv=conv()),
        Net(lambda self, x: x, act=nn.ReLU()),
    ],
    ids=["lazy", "broken", "without layers"],
)
def test_no_guess_is_made_where_none_runs(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of lazy layers, which PyTorch may change
        assert watch_guessed(model) is None


def test_a_model_that_looks_at_values_runs_on_a_copy():
    model = Net(lambda self, x: self.bn(self.conv1(x)) * x.mean().item(), conv1=conv(), bn=BN(6))
    flow = watch_guessed(model)
    assert flow is not None
    assert flow.partners("bn") == (("conv1",), True)


X = torch.zeros(1, 6, 4, 4)


@pytest.mark.parametrize("example", [X, (X,), {"x": X}, lambda model: model(X)])
def test_examples(example):
    model = Net(lambda self, x: self.bn(self.conv1(x)), bn=BN(6), conv1=conv())
    assert convert_to_ndpp(model, example=example).records[0].reason == "with 'conv1'"


def test_an_example_that_does_not_run_is_an_error_that_leaves_the_model_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(ValueError, match="does not run on the example: RuntimeError"):
        convert_to_ndpp(model, example=torch.zeros(1, 5, 4, 4))
    with pytest.raises(ValueError, match="example = 3 is not something to call a model with. Choices:"):
        convert_to_ndpp(model, example=3)
    assert type(model[0]) is nn.Conv2d
    assert model.training


def test_watching_works_with_gradients_elsewhere_and_in_half_precision():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).bfloat16()
    flow = watch(model, lambda m: m(torch.zeros(1, 3, 8, 8, dtype=torch.bfloat16)))
    assert flow.partners("1") == (("0",), True)
