"""The sweep over other libraries' models: that it finds what is wrong, and that it finds nothing in some of them."""

import json
import warnings
from itertools import islice

import pytest
import torch
from sweeps import check as checks
from sweeps import page
from sweeps.check import Case, check
from sweeps.suites import SUITES
from torch import nn


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = (
            nn.Conv2d(4, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 4, 1),
            nn.BatchNorm2d(4),
        )
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x):
        return x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))


def run(model):
    generator = torch.Generator().manual_seed(0)
    weight = next(model.parameters())
    return model(torch.randn(2, 4, 6, 6, generator=generator, dtype=torch.float64).to(weight.dtype))


def case(make=lambda: nn.Sequential(Residual(), Residual()), run=run):
    return Case("own", "residual", make, run)


def test_a_model_that_converts_rightly():
    record = check(case())
    assert record["status"] == "right"
    assert record["counts"] == {"converted": 4, "dropped": 4}


def _shortcut(model):
    model[1].forward = lambda x: model[1].conv2(model[1].conv1(x).relu())


def _activation(model):
    model[0].conv1.activation = torch.nn.functional.leaky_relu


def _bias(model):
    model[0].conv2.bias.data.add_(1)


def _detached(model):
    forward = model[1].conv1.forward
    model[1].conv1.forward = lambda x: forward(x.detach())


@pytest.mark.parametrize("damage", [_shortcut, _activation, _bias, _detached])
def test_what_conversion_breaks_without_a_word_is_found(damage, monkeypatch):
    convert = checks.convert_to_ndpp

    def broken(model, config):
        report = convert(model, config)
        damage(model)
        return report

    monkeypatch.setattr(checks, "convert_to_ndpp", broken)
    record = check(case())
    assert record["status"] == "wrong"
    assert record["message"]


def test_models_that_do_not_run_and_models_that_are_refused():
    assert check(case(run=lambda model: 1 / 0))["status"] == "absent"
    record = check(case(make=lambda: nn.Sequential(nn.PReLU(4))))
    assert (record["status"], record["message"]) == ("refused", "Nothing was converted:")


def test_layers_that_do_not_run_are_named():
    def make():
        model = nn.Sequential(Residual())
        model[0].spare = nn.Conv2d(4, 4, 1)
        return model

    record = check(case(make))
    assert record["status"] == "idle"
    assert "0.spare" in record["message"]


def test_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    records = [check(case()) | {"commit": "0123456"}, check(case(run=lambda model: 1 / 0)) | {"commit": "0123456"}]
    page.write(json.loads(json.dumps({"hardware": "a machine", "models": records})))
    text = (tmp_path / "page.md").read_text()
    assert "| own | 2 | 1 | 0 | 0 | 0 | 1 |" in text
    assert "ZeroDivisionError" in text


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_nothing_is_silently_wrong_in_other_libraries(suite):
    """Every 20th model; all of them are in docs/conversion.md."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            records = [check(found) for found in islice(SUITES[suite](), 0, None, 20)]
    except ImportError as error:
        pytest.skip(f"{suite} is not installed: {error}")
    assert [record for record in records if record["status"] == "wrong"] == []
    assert any(record["status"] == "right" for record in records)
