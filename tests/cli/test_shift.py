"""The command line measures, goes on after an interruption, and ends in a message where something is missing."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ndpp_dense.cli import main, shift
from ndpp_dense.cli.parsing import Parser

pytest.importorskip("timm", reason="timm is not installed: extra 'pretrain'")


@pytest.fixture
def words(tmp_path):
    from ndpp_dense.pretrain.config_loading import load_config
    from ndpp_dense.pretrain.network import build_network

    for split in ("train", "val"):
        for name in ("n01", "n02"):
            place = tmp_path / "data" / split / name
            place.mkdir(parents=True)
            for index in range(3):
                pixels = np.random.default_rng(index).integers(0, 255, (32, 32, 3)).astype("uint8")
                Image.fromarray(pixels).save(place / f"{index}.png")
    (tmp_path / "tiny.yaml").write_text("name: test_resnet\nimage_size: 32\n")
    torch.manual_seed(0)
    network = build_network(load_config(tmp_path / "tiny.yaml")[0], 2)
    torch.save(network.state_dict(), tmp_path / "tiny.pth")
    network.fc.bias.data[0] = torch.nan
    torch.save(network.state_dict(), tmp_path / "nan.pth")
    files = ["--config", str(tmp_path / "tiny.yaml"), "--weights", str(tmp_path / "tiny.pth")]
    files += ["--data", str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    return [*files, "--shifts", "-8..8", "--step", "4", "--batch-size", "4"]


def test_files_and_summary(words, tmp_path, capsys):
    assert main(["shift", *words, "--along", "grid", "--border", "circular"]) == 0
    output = capsys.readouterr().out
    assert "tiny, classification: 6 images at 25 shifts, border circular, on cpu" in output
    assert "accuracy" in output
    assert "mean loss" in output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["shift.csv", "shift.json", "shift.png"]
    record = json.loads((tmp_path / "out" / "shift.json").read_text())
    assert record["border"] == "circular"
    assert len(record["shifts"]) == len(record["measures"]["accuracy"]["values"]) == 25
    assert record["settings"]["weights"] == "tiny.pth"
    assert record["measures"]["agreement"]["at_zero"] == 1


def test_an_interrupted_run_goes_on(words, tmp_path, monkeypatch, capsys):
    from ndpp_dense.robustness.shift import partial

    monkeypatch.setattr(partial.PartialResults, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["shift", *words]) == 130
    monkeypatch.undo()
    assert (tmp_path / "out" / "partial" / "settings.json").is_file()
    assert main(["shift", *words]) == 0
    assert not (tmp_path / "out" / "partial").exists()
    assert "9 shifts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--shifts", "-40..40", "--step", "20"], "image 0 has 32 x 32 pixels"),
        (["--shifts", "0"], "there is no shift but 0"),
        (["--data", "nowhere"], "no images at nowhere"),
        (["--weights", "{tmp}/nan.pth"], "class scores are not finite. Are these the weights of this network"),
        (["--weights", "nonsense"], "nonsense"),
        (["--config", "nonsense"], "no config 'nonsense'"),
        (["--limit", "0"], "limit = 0"),
        (["--stride", "1"], "stride = 1: it must be at least 2"),
    ],
)
def test_errors_are_messages(words, tmp_path, capsys, more, message):
    assert main(["shift", *words, *(word.format(tmp=tmp_path) for word in more)]) == 2
    assert message in capsys.readouterr().err


def test_a_model_must_be_named(capsys):
    assert main(["shift", "--shifts", "-1..1"]) == 2
    assert "name a model: --config with --weights, --model of timm, or --weights ndpp://NAME" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--border", "--task"])
def test_unknown_names_of_borders_and_tasks(flag, capsys):
    with pytest.raises(SystemExit):
        main(["shift", flag, "wrap"])
    assert f"argument {flag}: invalid choice: 'wrap'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "framework"),
    [
        (["--config", "resnet18_ndpp_small"], "timm"),
        (["--config", "mask_rcnn_ndpp_demo"], "detectron2"),
        (["--config", "deeplabv3_ndpp_demo"], "mmseg"),
        (["--weights", "ndpp://mask_rcnn_ndpp_demo"], "detectron2"),
        (["--weights", "ndpp://deeplabv3_ndpp_demo"], "mmseg"),
        (["--model", "resnet18"], "timm"),
        (["--config", "resnet18_ndpp_small", "--task", "detection"], "detectron2"),
    ],
)
def test_what_a_config_is_for(words, framework):
    parser = Parser()
    shift.add_arguments(parser)
    assert shift.framework_asked_for(parser.parse(words)).name == framework
