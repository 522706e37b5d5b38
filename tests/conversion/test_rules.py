import pytest
import torch
from torch import nn
from torchvision.models import get_model

from ndpp_dense import NDLinear, WhiteningConfig, convert_to_ndpp
from ndpp_dense.conversion import convert
from ndpp_dense.conversion.rules import LEFT_BY_DEFAULT, RuleBook

BASE = WhiteningConfig(eps=0.5)


def _decide(rules, name="head.fc1", kind="Linear"):
    return RuleBook(BASE, rules).decide(name, kind)


def test_exact_before_pattern_before_type_before_default():
    rules = {nn.Linear: {"eps": 0.1}, "head.*": {"eps": 0.2}, "head.fc1": {"eps": 0.3}}
    assert _decide(rules) == (BASE.override({"eps": 0.3}), "rule 'head.fc1'")
    assert _decide(rules, "head.fc2") == (BASE.override({"eps": 0.2}), "rule 'head.*'")
    assert _decide(rules, "neck") == (BASE.override({"eps": 0.1}), "type Linear")
    assert _decide(rules, "neck", "Conv2d") == (BASE, "default")
    assert _decide(dict(reversed(rules.items()))) == _decide(rules)


def test_the_first_pattern_that_fits_wins():
    assert _decide({"head.*": False, "*.fc1": True}) == (None, "rule 'head.*'")


def test_values():
    other = WhiteningConfig.paper("coco")
    assert _decide({"Linear": other})[0] is other
    assert _decide({"Linear": False})[0] is None
    assert _decide({"Linear": True})[0] is BASE
    assert _decide({"head.fc1": {"EPS": 2.0}})[0].eps == 2.0
    assert _decide(None)[0] is BASE


@pytest.mark.parametrize("pattern", LEFT_BY_DEFAULT)
def test_prediction_layers_are_left_unless_named(pattern):
    name = "roi_heads.0." + pattern.replace("*", "0").replace("?", "0")
    config, reason = _decide({nn.Conv2d: True}, name, "Conv2d")
    assert config is None
    assert reason in LEFT_BY_DEFAULT.values()
    assert _decide({name: True}, name)[0] is BASE
    assert _decide({"roi_heads.*": True}, name)[0] is BASE


def test_a_longer_name_is_not_a_prediction_layer():
    assert _decide(None, "head.predictor_norm")[0] is BASE
    assert _decide(None, "mypredictor")[0] is BASE


def test_an_unknown_field_is_named_with_the_nearest():
    with pytest.raises(ValueError, match="no field 'epsilon'|Did you mean 'eps'"):
        RuleBook(BASE, {"fc": {"epsilon": 1.0}})
    with pytest.raises(ValueError, match="Did you mean 'block_size'"):
        RuleBook(BASE, {"fc": {"blocksize": 8}})


@pytest.mark.parametrize("value", ["yes", 3, None])
def test_a_value_that_is_no_rule(value):
    with pytest.raises(ValueError, match=r"Rule 'fc' has the value .*Choices: True \(convert\)"):
        RuleBook(BASE, {"fc": value})


def test_a_rule_that_fits_nothing_names_the_nearest_layer():
    model = nn.Sequential()
    model.add_module("linear_one", nn.Linear(4, 4))
    model.add_module("norm", nn.LayerNorm(4))
    for rule in ("linear_oen", "linear_x*"):
        with pytest.raises(
            ValueError, match=f"match no linear, norm or attention layer of the model: .*{rule[:8]}.*'linear_one'"
        ):
            convert_to_ndpp(model, rules={rule: False})
    assert type(model.linear_one) is nn.Linear


def test_rules_reach_the_layers():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 8))
    report = convert_to_ndpp(model, BASE, {"1": {"block_size_linear": 16}, "2": False})
    assert [type(m) for m in model] == [NDLinear, NDLinear, nn.Linear]
    assert (model[0].config.eps, model[0].block_size, model[1].block_size) == (0.5, 64, 16)
    assert report.left == ["2"]


def test_rules_for_norms():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    report = convert_to_ndpp(model, rules={"1": False})
    assert report.dropped_norms == ["3"]
    assert isinstance(model[1], nn.BatchNorm2d)
    assert convert_to_ndpp(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(9)), rules={"1": True}).dropped_norms == ["1"]


def test_a_rule_that_configures_layers_says_nothing_about_norms():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.BatchNorm2d(16))
    report = convert_to_ndpp(model, rules={"*": {"eps": 0.2}})
    assert report.dropped_norms == ["1"]
    assert isinstance(model[3], nn.BatchNorm2d)


def test_a_norm_inside_a_converted_layer_cannot_be_kept():
    conv = nn.Conv2d(3, 8, 3)
    conv.norm, conv.activation = nn.BatchNorm2d(8), None
    with pytest.raises(ValueError, match="rule '0.norm' keeps '0.norm', which is part of a converted layer"):
        convert_to_ndpp(nn.Sequential(conv), rules={"0.norm": False})
    report = convert_to_ndpp(nn.Sequential(conv, nn.Linear(3, 3)), rules={"0*": False})
    assert report.converted == ["1"]


DETECTORS = {
    "retinanet_resnet50_fpn": ("cls_logits", "bbox_reg"),
    "fcos_resnet50_fpn": ("cls_logits", "bbox_reg", "bbox_ctrness"),
    "keypointrcnn_resnet50_fpn": ("kps_score_lowres", "cls_score", "bbox_pred"),
    "ssd300_vgg16": ("classification_head.module_list.0", "regression_head.module_list.5"),
    "ssdlite320_mobilenet_v3_large": ("classification_head.module_list.0.1", "regression_head.module_list.5.1"),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_prediction_layers_and_shared_towers_of_torchvision_are_left_by_name(name, monkeypatch):
    monkeypatch.setattr(convert, "watch_guessed", lambda model: None)
    with torch.device("meta"):
        model = get_model(name, weights=None, weights_backbone=None)
    report = convert_to_ndpp(model)
    for ending in DETECTORS[name]:
        assert any(layer.endswith(f".{ending}") for layer in report.left)
        assert not any(layer.endswith(f".{ending}") for layer in report.converted)
    if name in ("retinanet_resnet50_fpn", "fcos_resnet50_fpn"):
        assert not any(layer.startswith("head") for layer in report.converted)


SEGMENTORS = {
    "deeplabv3_resnet50": {"classifier.4", "aux_classifier.4"},
    "fcn_resnet50": {"classifier.4", "aux_classifier.4"},
    "lraspp_mobilenet_v3_large": {"classifier.low_classifier", "classifier.high_classifier"},
    "alexnet": set(),  # its classifier.4 is one linear layer of three
}


@pytest.mark.parametrize("name", SEGMENTORS)
def test_prediction_layers_of_torchvisions_segmentors_are_left_by_name(name):
    with torch.device("meta"):
        model = get_model(name, weights=None, **({} if name == "alexnet" else {"weights_backbone": None}))
        if hasattr(model, "aux_classifier"):
            model = get_model(name, weights=None, weights_backbone=None, aux_loss=True)
    report = convert_to_ndpp(model)
    assert SEGMENTORS[name] == {layer for layer in report.left if "classifier" in layer}
