"""What calibration makes of odd models, rules and data: it refuses before it changes anything."""

import copy
import importlib.util
from pathlib import Path

import pytest
import timm.layers
import torch
from torch import nn

from ndpp_dense import WhiteningConfig, calibrate_ndpp, nd_layers

WORKER = Path(__file__).with_name("calibrate_worker.py")
PLAIN = WhiteningConfig(local_scale="none", block_size=4, block_size_spatial=2, block_size_linear=4)


def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))
    model(torch.randn(16, 4, 6, 6) + 1)
    return model


def data(count=3):
    torch.manual_seed(1)
    return [torch.randn(16, 4, 6, 6) + 1 for _ in range(count)]


class DetectronConv(nn.Conv2d):
    """As in detectron2.layers.wrappers."""

    def __init__(self, *args, norm=None, activation=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.norm, self.activation = norm, activation

    def forward(self, x):
        x = super().forward(x)
        x = x if self.norm is None else self.norm(x)
        return x if self.activation is None else self.activation(x)


def poisoned(index):
    batches = data()
    batches[index][3, 0, 2, 2] = float("nan")
    return batches


REFUSED = {
    "no data": (net, [], {}, "got no batch: `data` is empty"),
    "no batches wanted": (net, data(), {"num_batches": 0}, "num_batches >= 1, got 0"),
    "too few batches": (net, [data()[0][:3]], {}, "Too little data .* 1 layers: '4' .3 rows for 4 columns"),
    "first batch NaN": (net, poisoned(0), {}, "input of '0' holds NaN or infinity"),
    "later batch NaN": (net, poisoned(2), {}, "input of '0' holds NaN or infinity"),
    "half": (
        lambda: net().bfloat16(),
        [x.bfloat16() for x in data()],
        {},
        "'0' is torch.bfloat16: calibrate in float32",
    ),
    "misspelt rule": (net, data(), {"rules": {"00": False}}, "Rules that match no linear, norm or attention layer"),
    "all left": (net, data(), {"rules": {"*": False}}, "Nothing was converted"),
    "idle layer": (
        lambda: net().append(nn.Identity()).append(nn.Linear(3, 3)),
        data(),
        {"forward": lambda model, x: model[:5](x)},
        "do not run on the first batch: '6'",
    ),
    "group norm inside": (
        lambda: nn.Sequential(DetectronConv(4, 6, 3, norm=nn.GroupNorm(2, 6))),
        data(),
        {},
        "'0.norm' .GroupNorm. is part of .* Leave the layer as it is: rules={'0': False}",
    ),
    "norm to be dropped": (
        lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3)),
        data(),
        {"rules": {"0": True}},
        "A rule drops the norm '0', which would change",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_and_the_model_left_as_it_was(case):
    make, batches, options, message = REFUSED[case]
    model = make().train()
    before, modules = copy.deepcopy(model.state_dict()), list(model.modules())
    with pytest.raises(ValueError, match=message):
        calibrate_ndpp(model, batches, PLAIN, **options)
    assert list(model.modules()) == modules
    assert all(module.training for module in modules)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def test_parameters_in_two_layers_are_refused():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    with pytest.raises(ValueError, match="The layers '0', '2' share a parameter"):
        calibrate_ndpp(model, [torch.randn(64, 6)], PLAIN)


def test_an_unusual_norm_is_found_out():
    class Doubling(nn.BatchNorm2d):
        def forward(self, x):
            return 2 * super().forward(x)

    model = nn.Sequential(nn.Conv2d(4, 6, 3), Doubling(6), nn.Conv2d(6, 2, 1))
    with pytest.raises(ValueError, match="'0' and its norm .Doubling. cannot be folded: .* off by 5.0e-01"):
        calibrate_ndpp(model, data(), PLAIN)
    expected = model.eval()(data()[0])
    report = calibrate_ndpp(model, data(), PLAIN, rules={"0": False})
    assert report.left == ["0"]
    torch.testing.assert_close(model(data()[0]), expected)


KEPT = {
    "group norm": lambda: nn.GroupNorm(2, 6),
    "instance norm": lambda: nn.InstanceNorm2d(6, track_running_stats=True),
    "batch norm without statistics": lambda: nn.BatchNorm2d(6, track_running_stats=False),
}


@pytest.mark.parametrize("kind", KEPT)
def test_a_norm_that_is_no_fixed_map_stays(kind):
    model = nn.Sequential(nn.Conv2d(4, 6, 3), KEPT[kind]()).eval()
    expected = model(data()[0])
    report = calibrate_ndpp(model, data(), PLAIN)
    assert report.dropped_norms == []
    assert "cannot be folded" in report.records[1].reason
    torch.testing.assert_close(model(data()[0]), expected, rtol=1e-4, atol=1e-5)


def test_a_model_without_norms_is_calibrated_too():
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2))
    x = torch.randn(64, 6) @ torch.randn(6, 6)
    expected = model(x)
    assert calibrate_ndpp(model, [x], PLAIN).converted == ["0", "2"]
    torch.testing.assert_close(model.eval()(x), expected, rtol=1e-4, atol=1e-5)


def test_the_activation_that_a_norm_carries_stays():
    norm = timm.layers.BatchNormAct2d(6, act_layer=nn.SiLU)
    norm.running_mean.uniform_(-1, 1)
    model = nn.Sequential(nn.Conv2d(4, 6, 3), norm, nn.Conv2d(6, 2, 1)).eval()
    expected = model(data()[0])
    assert calibrate_ndpp(model, data(), PLAIN).dropped_norms == ["1"]
    torch.testing.assert_close(model(data()[0]), expected, rtol=1e-4, atol=1e-5)


def test_layers_and_norms_that_rules_leave_are_untouched():
    model = net().eval()
    expected = model(data()[0])
    left = {name: value.clone() for name, value in model.state_dict().items() if name[0] in "01"}
    report = calibrate_ndpp(model, data(), PLAIN, rules={"0": False, "4": {"eps": 1e-3}})
    assert (report.left, report.dropped_norms, report.converted) == (["0"], [], ["4"])
    assert all(torch.equal(model.state_dict()[name], value) for name, value in left.items())
    assert model[4].config.eps == 1e-3
    torch.testing.assert_close(model(data()[0]), expected, rtol=1e-4, atol=1e-5)


def test_an_iterator_is_read_only_as_far_as_wanted_and_double_is_kept():
    model = net().double()
    batches = iter([x.double() for x in data(5)])
    expected = model.eval()(data()[0].double())
    model.train()
    calibrate_ndpp(model, batches, PLAIN, num_batches=3)
    assert len(list(batches)) == 2
    torch.testing.assert_close(model.eval()(data()[0].double()), expected, rtol=1e-9, atol=1e-11)
    assert {layer.whitening.running_cov.dtype for _, layer in nd_layers(model)} == {torch.float64}


def test_frozen_weights_stay_frozen():
    model = net()
    model[0].requires_grad_(False)
    calibrate_ndpp(model, data(), PLAIN)
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]


def test_ranks_calibrate_from_all_data(run_ranks):
    one, other = run_ranks(WORKER)
    assert all(torch.equal(one[name], other[name]) for name in one)
    spec = importlib.util.spec_from_file_location("calibrate_worker", WORKER)
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    alone = worker.model()
    calibrate_ndpp(alone, worker.batches(0) + worker.batches(1), worker.config())
    torch.testing.assert_close(one, dict(alone.state_dict()))


def test_black_images_do_not_count_for_the_average_scale():
    batches = [2 * x / x.abs().mean((1, 2, 3), keepdim=True) for x in data()]
    model = net().eval()
    expected = model[:2](batches[0])
    calibrate_ndpp(model, [torch.cat([x, torch.zeros_like(x)]) for x in batches], PLAIN.override({"local_scale": "l1"}))
    torch.testing.assert_close(model[:2](batches[0]), expected, rtol=1e-4, atol=1e-5)


def test_a_norm_over_positions_does_not_go_into_the_linear_layer_before_it():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))  # on 8 positions of 6 features
    model(torch.randn(16, 8, 6))
    x = torch.randn(16, 8, 6)
    expected = model.eval()(x)
    assert calibrate_ndpp(model, [x], PLAIN).dropped_norms == []
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
