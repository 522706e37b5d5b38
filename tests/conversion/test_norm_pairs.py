"""Which layer a norm goes with by where it stands, for models that no guessed input runs."""

import pytest
import timm
import torch
from torch import nn

from ndpp_dense import convert_to_ndpp
from ndpp_dense.conversion import convert


@pytest.fixture(autouse=True)
def _never_run(monkeypatch):
    monkeypatch.setattr(convert, "watch_guessed", lambda model: None)


def conv(channels=6):
    return nn.Conv2d(6, channels, 3, padding=1)


def norm():
    return nn.BatchNorm2d(6)


SEQUENCES = {  # model, layer -> the norm that stands behind it, all norms dropped
    "behind a chain": (lambda: nn.Sequential(nn.Sequential(nn.ReLU(), conv()), norm()), {"0.1": "1"}, ["1"]),
    "behind chains in chains": (
        lambda: nn.Sequential(nn.Sequential(conv(), nn.Sequential(nn.ReLU(), conv())), norm()),
        {"0.1.1": "1"},
        ["1"],
    ),
    "in a chain behind": (lambda: nn.Sequential(conv(), nn.Sequential(norm(), nn.ReLU())), {"0": "1.0"}, ["1.0"]),
    "both in chains": (
        lambda: nn.Sequential(nn.Sequential(conv()), nn.Sequential(nn.Sequential(norm()), nn.ReLU())),
        {"0.0": "1.0.0"},
        ["1.0.0"],
    ),
    "before a chain": (lambda: nn.Sequential(norm(), nn.Sequential(conv(), nn.ReLU())), {}, ["0"]),
    "the one in its own chain": (
        lambda: nn.Sequential(conv(), nn.Sequential(norm(), nn.ReLU(), conv())),
        {},
        ["1.0"],
    ),
    "a chain with something behind its layer": (
        lambda: nn.Sequential(nn.Sequential(conv(), nn.ReLU()), norm()),
        {},
        [],
    ),
    "another number of channels": (lambda: nn.Sequential(nn.Sequential(conv(4)), nn.BatchNorm2d(4 + 4)), {}, []),
    "last in a chain before": (lambda: nn.Sequential(nn.Sequential(nn.ReLU(), norm()), conv()), {}, []),
    "an empty chain": (lambda: nn.Sequential(conv(), nn.Sequential(), norm()), {"0": "2"}, ["2"]),
}


@pytest.mark.parametrize("case", SEQUENCES)
def test_a_chain_stands_for_its_last_or_first_layer(case):
    make, behind, dropped = SEQUENCES[case]
    report = convert_to_ndpp(make())
    assert report.dropped_norms == dropped
    assert {record.stands_in: record.name for record in report.records if record.stands_in} == behind


def test_a_layer_left_alone_keeps_its_norm_through_chains():
    model = nn.Sequential(nn.Sequential(conv(), nn.ReLU(), conv()), norm())
    assert convert_to_ndpp(model, rules={"0.2": False}).dropped_norms == []


@pytest.mark.parametrize(("name", "kept"), [("resnet50d", []), ("resnetv2_50d", ["norm"])])  # which follows a sum
def test_deep_stems_of_timm(name, kept):
    with torch.device("meta"):
        model = timm.create_model(name)
    report = convert_to_ndpp(model)
    assert [record.name for record in report.records if record.action == "kept"] == kept
