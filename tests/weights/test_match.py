"""Whose weights they are, told by names and shapes alone."""

import pytest
import torch

from ndpp_dense import WhiteningConfig, convert_to_ndpp

pytest.importorskip("timm", reason="timm is not installed: extra 'pretrain'")
from ndpp_dense.weights.match import build_model, compare, find_model, num_classes  # noqa: E402
from ndpp_dense.weights.table import KeyRow, KeyTable  # noqa: E402


def weights(name, classes=10, ndpp=None, rules=None):
    with torch.device("meta"):
        model = build_model(name, classes)
        if ndpp is not None:
            convert_to_ndpp(model, ndpp, rules)
    return model.state_dict()


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet34", "resnet26_hybrid", "resnet50", "resnet50_max", "resnet50_deform_max", "resnet50c"]
    + ["wide_resnet50_2", "resnext50_32x4d", "seresnet50_hybrid"],
)
def test_models_are_recognised(name):
    found, differences = find_model(weights(name))
    assert (found, len(differences)) == (name, 0)


@pytest.mark.parametrize("ndpp", [WhiteningConfig.fast(), WhiteningConfig.paper()], ids=["fast", "paper"])
def test_nd_models_are_recognised(ndpp):
    entries = weights("resnet50_hybrid", ndpp=ndpp)
    assert find_model(entries)[0] == "resnet50_hybrid"
    assert not compare(entries, "resnet50_hybrid")
    assert not compare(weights("resnet26_hybrid", 0, ndpp, {"conv1": False}), "resnet26_hybrid")


def test_an_nd_layer_must_be_whole():
    entries = weights("resnet18", ndpp=WhiteningConfig.fast())
    del entries["layer1.0.conv1.whitening.running_cov"], entries["layer1.0.conv1.bias"]
    assert compare(entries, "resnet18").missing == ["layer1.0.conv1.bias", "layer1.0.conv1.whitening.running_cov"]
    entries = weights("resnet18", ndpp=WhiteningConfig.fast())
    name = "layer1.0.conv1.whitening.running_mean"
    entries[name] = entries[name][:, :-1]
    assert name in compare(entries, "resnet18").wrong
    entries["bn1.weight"] = torch.ones(64)
    assert "bn1.weight" in compare(entries, "resnet18").left_over


def test_differences_are_named_with_the_nearest():
    entries = weights("resnet18")
    entries["layer1.0.convl.weight"] = entries.pop("layer1.0.conv1.weight")
    entries["layer2.0.conv1.weight"] = entries["layer2.0.conv1.weight"][:8]
    del entries["bn1.num_batches_tracked"]
    name, differences = find_model(entries)
    assert name == "resnet18"
    assert differences.missing == ["layer1.0.conv1.weight"]
    assert differences.left_over == {"layer1.0.convl.weight": "layer1.0.conv1.weight"}
    assert differences.wrong == {"layer2.0.conv1.weight": "(8, 64, 3, 3), not (128, 64, 3, 3)"}


def test_classes():
    assert [num_classes(weights(name, classes)) for name, classes in (("resnet18", 7), ("resnet18", 0))] == [7, 0]
    assert not compare(weights("densenet121", 3), "densenet121")
    assert not compare(weights("vit_small_max", 3), "vit_small_max")
    entries = weights("resnet18")
    del entries["fc.bias"]
    assert compare(entries, "resnet18").missing == ["fc.bias"]


def test_unknown_models():
    with pytest.raises(ValueError, match=r"Did you mean 'resnet50_hybrid'"):
        compare({}, "resnet50_hybird")
    with pytest.raises(ValueError, match=r"blocks by stage: \(1,\)\). Name the model with --model"):
        find_model({"layer1.0.conv1.weight": torch.zeros(1)})


def test_the_table_groups_layers_and_puts_faults_last():
    table = KeyTable([KeyRow("left over", "b.w", "", "nearest: a.w"), *rows("a", "weight", "bias")])
    lines = str(table).splitlines()
    assert lines[1].split() == ["renamed", "a.{weight,bias}", "x.a.{weight,bias}"]
    assert lines[2].split() == ["left", "over", "b.w", "nearest:", "a.w"]
    assert lines[3].startswith("3 keys: 0 matched, 2 renamed, 0 added, 0 dropped, 1 left over, 0 missing, 0 shape")
    with pytest.raises(ValueError, match=r"nothing was written.*: 1 left over: b.w \(nearest: a.w\)"):
        table.check()
    KeyTable(rows("a", "weight")).check()


def rows(layer, *names):
    return [KeyRow("renamed", f"{layer}.{name}", f"x.{layer}.{name}") for name in names]
