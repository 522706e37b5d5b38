"""``ndpp inspect`` takes a name, a folder, a file or a backbone, and refuses the rest in one line."""

import json

import pytest
import torch

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from browser import PHONE, opened
from torch import nn

from ndpp_dense import WhiteningConfig, convert_to_ndpp, fold_ndpp
from ndpp_dense.cli import main
from ndpp_dense.reports import inspection
from ndpp_dense.reports.inspection import first_filters
from ndpp_dense.reports.spectra import layer_spectra


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    convert_to_ndpp(model, WhiteningConfig.fast("imagenet"), rules={"3": False})
    for _ in range(30):
        model(torch.randn(4, 3, 16, 16).cumsum(3))
    return model.eval()


def test_a_model_of_the_zoo(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(inspection, "_MOST_DRAWN", 6)
    assert main(["inspect", "mask_rcnn_ndpp_demo", "--output", str(tmp_path)]) == 0
    assert "66 ND++ layers, 6 left plain" in capsys.readouterr().out
    facts = json.loads((tmp_path / "inspect.json").read_text())
    assert len(facts["layers"]) == 66
    known = [layer for layer in facts["layers"] if layer["condition_before"] < 1e11]  # the others have dead channels
    assert len(known) > 50
    assert all(layer["condition_after"] <= layer["condition_before"] for layer in known)
    assert all(layer["faults"] == "" for layer in facts["layers"])
    seen = opened(tmp_path / "inspect.html", tmp_path)
    assert (seen.console, seen.asked, seen.broken, seen.wide) == ([], [], 0, [])
    assert seen.width <= PHONE
    assert "First filters" in seen.text
    assert "The first 6 layers; inspect.json has the 60 others." in seen.text


def test_the_folder_of_a_run_and_a_file_in_it(trained, tmp_path, capsys):
    torch.save({"model": trained.state_dict()}, tmp_path / "model_0000009.pth")
    (tmp_path / "report.json").write_text(json.dumps({"left_plain": {"3": "a rule: <b>3</b>"}}))
    assert main(["inspect", str(tmp_path)]) == 0
    page = (tmp_path / "inspect.html").read_text()
    assert "model_0000009.pth" in page
    assert "a rule: &lt;b&gt;3&lt;/b&gt;" in page
    assert main(["inspect", str(tmp_path / "model_0000009.pth"), "--output", str(tmp_path / "look")]) == 0
    assert json.loads((tmp_path / "look" / "inspect.json").read_text())["left_plain"] == {"3": "a rule: <b>3</b>"}
    assert capsys.readouterr().err == ""


def test_filters_are_those_that_folding_would_write(trained):
    kept, acting = first_filters(trained.state_dict(), layer_spectra(trained.state_dict()))
    torch.testing.assert_close(kept, trained[0].weight)
    torch.testing.assert_close(acting, fold_ndpp(trained)[0].weight, rtol=1e-5, atol=1e-6)


def test_a_backbone_with_generated_pictures(tmp_path, capsys):
    pytest.importorskip("timm", reason="timm is not installed")
    assert main(["inspect", "test_resnet.r160_in1k", "--output", str(tmp_path)]) == 0
    assert "ND++ layers" in capsys.readouterr().out
    facts = json.loads((tmp_path / "inspect.json").read_text())
    assert "16 generated streets" in facts["source"]
    assert min(layer["weight"] for layer in facts["layers"]) > 0.9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no/such.pth"], "no/such.pth: there is no such file or folder"),
        (["resnet19"], "Did you mean 'resnet18'"),
        (["ndpp://resnet19"], "the model zoo has no 'resnet19'"),
        (["EMPTY"], "holds no checkpoint"),
        (["PLAIN"], "has no ND++ layers"),
        (["resnet18", "--images", "EMPTY"], "there are no images below it"),
        (["resnet18", "--images", "gone"], "there is no such folder"),
    ],
)
def test_what_is_wrong_ends_in_one_line(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "plain.pth")
    places = {"EMPTY": str(tmp_path / "empty"), "PLAIN": str(tmp_path / "plain.pth")}
    assert main(["inspect", *(places.get(word, word) for word in words)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
