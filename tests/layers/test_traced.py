"""What other tools make of ND++ and folded layers: symbolic traces and TorchScript."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torchvision.models import resnet18
from torchvision.models.feature_extraction import create_feature_extractor

from ndpp_dense import NDConv2d, WhiteningConfig, convert_to_ndpp, fold_ndpp, nd_layers, update_stats

SHAPES = {
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, padding=1), (2, 3, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect"), (2, 3, 6, 7)),
    "conv3d": (lambda: nn.Conv3d(3, 4, 2, stride=2), (2, 3, 4, 5, 6)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(3, 4, 4, 2, 1, 1), (2, 3, 9)),
    "transposed 2d": (lambda: nn.ConvTranspose2d(3, 4, (2, 3), (2, 3)), (2, 3, 6, 7)),
    "transposed 3d": (lambda: nn.ConvTranspose3d(3, 4, 2, 2), (2, 3, 2, 3, 4)),
    "linear": (lambda: nn.Linear(3, 4), (2, 5, 3)),
}


def fitted(make, shape, scale):
    torch.manual_seed(0)
    model = nn.Sequential(make(), nn.ReLU())
    convert_to_ndpp(model, WhiteningConfig(local_scale=scale))
    update_stats(model, [torch.randn(shape) + 1, torch.randn(shape)])
    return model.eval()


@pytest.mark.parametrize("scale", ["l1", "std", "none"])
@pytest.mark.parametrize("case", SHAPES)
def test_torchscript_of_folded_layers(case, scale):
    model = fitted(*SHAPES[case], scale)
    folded = fold_ndpp(model)
    scripted = torch.jit.script(copy.deepcopy(folded))
    for x in (torch.randn(SHAPES[case][1]), torch.zeros(SHAPES[case][1]), torch.randn(SHAPES[case][1])[0]):
        torch.testing.assert_close(scripted(x), folded(x))


def test_torchscript_of_a_folded_model_with_norms_and_activations(tmp_path):
    model = resnet18(num_classes=3)
    convert_to_ndpp(model)
    model.layer1[0].conv1.activation = F.relu
    update_stats(model, [torch.randn(4, 3, 64, 64)])
    folded = fold_ndpp(model)
    torch.jit.script(copy.deepcopy(folded)).save(tmp_path / "model.pt")
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(torch.jit.load(tmp_path / "model.pt")(x), folded(x), rtol=1e-4, atol=1e-4)
    pickle.dumps(folded)


@pytest.mark.parametrize("folds", [False, True], ids=["converted", "folded"])
def test_feature_extractors_of_torchvision(folds):
    model = resnet18(num_classes=3).eval()
    convert_to_ndpp(model)
    model = fold_ndpp(model) if folds else model
    x = torch.randn(1, 3, 64, 64)
    extracted = create_feature_extractor(model, {"layer2": "features"})(x)["features"]
    expected = model.layer2(model.layer1(model.maxpool(model.relu(model.bn1(model.conv1(x))))))
    torch.testing.assert_close(extracted, expected)


@pytest.mark.parametrize("case", SHAPES)
def test_a_symbolic_trace_calls_whole_layers(case):
    model = fitted(*SHAPES[case], "l1")
    traced = fx.symbolic_trace(model)
    assert [node.op for node in traced.graph.nodes] == ["placeholder", "call_module", "call_module", "output"]
    assert len(list(nd_layers(traced))) == 1
    x = torch.randn(SHAPES[case][1])
    torch.testing.assert_close(traced(x), model(x))
    folded = fold_ndpp(model)
    torch.testing.assert_close(fx.symbolic_trace(folded)(x), folded(x))


def test_a_single_sample_and_the_name_of_the_input():
    layer = NDConv2d(3, 4, 3).eval()
    x = torch.randn(1, 3, 5, 5)
    torch.testing.assert_close(layer(input=x[0]), layer(x)[0])
    linear = fitted(*SHAPES["linear"], "l1")[0]
    row = torch.randn(3)
    torch.testing.assert_close(linear(input=row), linear(row[None])[0])
    torch.testing.assert_close(fold_ndpp(linear)(input=row), linear(row[None])[0])
