"""Preparing must take the same steps under every framework, and give one momentum, whenever the batch is known."""

import pytest
import torch
from torch import nn

from ndpp_dense import WhiteningConfig, nd_layers
from ndpp_dense.conversion.convert import convert_to_ndpp
from ndpp_dense.conversion.options import NDPPOptions, read_options
from ndpp_dense.training.prepare import fit_momentum, prepare


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(32, 4)
    )


def momenta(model):
    return {name: (layer.config.momentum, layer.whitening.momentum) for name, layer in nd_layers(model)}


SECTIONS = [
    {},
    {"preset": "paper"},  # whose averages stay as they are
    {"momentum": 0.3},
    {"schedule": "every=4"},
    {"schedule": "stale"},
    {"rules": {"3": {"momentum": 0.5}, "Linear": {"eps": 0.1}}},
    {"rules": {"3": WhiteningConfig.fast("coco"), "5": False}},
]


@pytest.mark.parametrize("section", SECTIONS, ids=str)
@pytest.mark.parametrize("batch", [2, 8, 64])
def test_momentum_is_the_same_whether_the_batch_is_known_before_or_after(section, batch):
    before, after, options = network(), network(), read_options(section, "imagenet")
    prepare(before, options, batch_size=batch)
    prepare(after, options)
    for _ in range(2):  # a second run of the same model changes nothing
        fit_momentum(after, batch)
        assert momenta(after) == momenta(before)
    assert [layer.config for _, layer in nd_layers(after)] == [layer.config for _, layer in nd_layers(before)]
    assert [layer.whitening.config for _, layer in nd_layers(after)] == [layer.config for _, layer in nd_layers(after)]


def test_momentum_for_a_batch_is_as_the_configuration_says():
    model = network()
    prepare(model, read_options({"rules": {"3": {"momentum": 0.5}}, "schedule": "every=2"}, "imagenet"))
    assert fit_momentum(model, 32) == 1 - 0.9**4
    assert momenta(model)["0"] == (1 - 0.9**4, 1 - (1 - (1 - 0.9**4)) ** 2)
    assert momenta(model)["3"] == (0.5, 0.75)


def test_nothing_is_fitted_where_a_momentum_is_named_or_the_model_is_not_prepared():
    model = network()
    assert fit_momentum(model, 64) is None
    convert_to_ndpp(model)
    assert fit_momentum(model, 64) is None
    for options in (NDPPOptions(WhiteningConfig()), read_options({"momentum": 0.1}, "coco")):
        model = network()
        prepare(model, options)
        assert fit_momentum(model, 64) is None
        assert momenta(model)["0"][0] == options.config.momentum
    model = network()
    prepare(model, read_options({}, "coco"), batch_size=16)
    assert fit_momentum(model, 64) is None
    assert momenta(model)["0"][0] == 1 - 0.9**2


def test_layers_that_were_there_before_keep_their_momentum():
    model = nn.Sequential(network(), nn.Linear(4, 4))
    convert_to_ndpp(model[0], WhiteningConfig.fast().override({"momentum": 0.1}))
    prepare(model, read_options({}, "imagenet"))
    fit_momentum(model, 64)
    assert momenta(model)["0.0"][0] == 0.1
    assert momenta(model)["1"][0] == 1 - 0.9**8


def test_the_steps_and_their_order():
    model, seen = network(), []
    model[0].weight.requires_grad_(False)

    def convert(module, config, rules, example):
        seen.append("convert")
        return convert_to_ndpp(module, config, rules, example)

    def start(module):
        seen.append(f"start, frozen {[name for name, layer in nd_layers(module) if layer.whitening.frozen]}")

    def example(module):
        seen.append("run")
        return module(torch.zeros(1, 3, 4, 4))

    report = prepare(model, read_options({}, "coco"), convert=convert, start_at_zero=start, example=example)
    assert seen == ["convert", "run", "start, frozen ['0']", "run"]
    assert model.ndpp_report is report
    assert list(model.state_dict()) == list(convert_state())
    prepare(network(), read_options({"verify": False}, "coco"), example=lambda model: pytest.fail("was run"))


class WithHead(nn.Module):
    """Has a head that runs in training only, and may hold a layer where conversion cannot see it."""

    def __init__(self, hidden=False):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        stem = self.stem
        self.run = (lambda x: stem(x)) if hidden else None

    def forward(self, x):
        x = self.run(x) if self.run else self.stem(x)
        return (x, self.head(x)) if self.training else x


def run_blank(model):
    return model(torch.zeros(1, 3, 4, 4))


def test_a_head_that_runs_in_training_only_is_told_and_not_refused(caplog):
    report = prepare(WithHead(), read_options({}, "coco"), example=run_blank)
    assert report.converted == ["stem", "head"]
    assert "does not reach 1 converted layers, of which nothing is proven: head." in caplog.text
    assert "`verify: False`" in caplog.text


def test_a_plain_layer_that_still_runs_is_refused_with_the_switch():
    with pytest.raises(RuntimeError, match=r"1 converted layers do not run.*: stem\..*'stem': False.*`verify: False`"):
        prepare(WithHead(hidden=True), read_options({}, "coco"), example=run_blank)


def test_a_model_that_does_not_run_on_a_blank_input_is_converted_all_the_same(caplog):
    def fail(model):
        raise AssertionError("proposals are missing")

    report = prepare(network(), read_options({}, "coco"), example=fail)
    assert report.converted
    assert "does not run on the example: AssertionError: proposals are missing" in caplog.text
    assert "`verify: False`" in caplog.text


def convert_state():
    model = network()
    convert_to_ndpp(model)
    return model.state_dict()


@pytest.mark.parametrize("momentum", [0.0, 1.5, float("nan")])
def test_a_momentum_out_of_range_is_refused(momentum):
    model = network()
    convert_to_ndpp(model)
    with pytest.raises(ValueError, match="momentum"):
        model[0].set_momentum(momentum)
