import pytest
import torch
from torch import nn

from ndpp_dense import ConversionReport, convert_to_ndpp


class Net(nn.Module):
    """Keeps a layer where no conversion can see it, if asked to."""

    def __init__(self, hidden=False):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.bn = nn.BatchNorm2d(8)
        self.cls_score = nn.Linear(8, 2)
        conv = self.conv
        self.run = (lambda x: conv(x)) if hidden else None

    def forward(self, x):
        x = self.bn(self.run(x) if self.run else self.conv(x))
        return self.cls_score(x.mean((2, 3)))


def test_prints_a_table_in_the_order_of_the_model():
    report = convert_to_ndpp(Net())
    lines = str(report).splitlines()
    assert lines[0].split() == ["layer", "was", "action", "block", "D", "rule", "or", "reason"]
    assert lines[2].split() == ["conv", "Conv2d", "converted", "3", "1", "x", "27x27", "default"]
    assert lines[3].split()[:3] == ["cls_score", "Linear", "left"]
    assert lines[4] == "1 layers converted to ND++, 1 left plain; 1 norms dropped, 0 kept"


def test_verify_passes_and_leaves_the_model_as_it_was():
    model = Net()
    report = convert_to_ndpp(model)
    model.bn.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report.verify(model, torch.randn(2, 3, 8, 8))
    assert model.training
    assert not model.bn.training
    assert not model.conv._forward_hooks
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_verify_names_a_layer_that_does_not_run():
    model = Net(hidden=True)
    report = convert_to_ndpp(model)
    with pytest.raises(RuntimeError, match="1 of 1 converted layers did not run in a forward pass: conv"):
        report.verify(model, torch.randn(2, 3, 8, 8))
    assert model.training


def test_verify_of_a_model_without_layers():
    with pytest.raises(RuntimeError, match="0 of 0 converted layers"):
        ConversionReport().verify(nn.ReLU(), torch.zeros(1))


def test_verify_passes_keywords_and_cleans_up_after_an_error():
    model = Net()
    report = convert_to_ndpp(model)
    report.verify(model, x=torch.randn(2, 3, 8, 8))
    with pytest.raises(TypeError):
        report.verify(model)
    assert model.training
    assert not model.conv._forward_hooks
