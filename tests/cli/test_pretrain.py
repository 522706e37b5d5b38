"""The command line trains, resumes, evaluates, and ends in a message where something is missing."""

import json

import numpy as np
import pytest
from PIL import Image

from ndpp_dense.cli import main

CONFIG = """
name: test_resnet
ndpp: {block_size: 8, block_size_spatial: 2, block_size_linear: 8}
image_size: 32
batch_size: 4
epochs: 1
workers: 0
"""


@pytest.fixture
def words(tmp_path):
    for split in ("train", "val"):
        for name in ("n01", "n02"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for index in range(3):
                pixels = np.random.default_rng(index).integers(0, 255, (32, 32, 3)).astype("uint8")
                Image.fromarray(pixels).save(folder / f"{index}.jpg")
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    files = ["--config", str(tmp_path / "tiny.yaml"), "--data", str(tmp_path / "data")]
    return [*files, "--output", str(tmp_path / "run"), "--device", "cpu"]


def test_training_resuming_and_evaluating(words, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["pretrain", *words, "lr=0.05"]) == 0
    output = capsys.readouterr()
    assert "results.json, summary.csv, curves.png, best.pth, last.pth" in output.out
    log = (run / "log.txt").read_text()
    assert "cpu, 1 process(es), 6 training and 6 validation images of 2 classes, test_resnet" in log
    assert log in output.err
    for name in ("results.json", "summary.csv", "curves.png", "best.pth", "last.pth"):
        assert (run / name).is_file()
    assert main(["pretrain", "epochs=2", *words, "--resume", "lr=0.05"]) == 0
    assert "at step 1 of 2" in (run / "log.txt").read_text()
    last = json.loads((run / "results.json").read_text())["last"]
    assert last["epoch"] == 2
    assert main(["pretrain", *words, "--eval-only", "--resume"]) == 0
    found = json.loads((run / "evaluation.json").read_text())["evaluation"]
    assert found == {name: last[name] for name in ("loss", "top1", "top5")}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["epochss=1"], "no setting 'epochss'. The nearest: epochs"),
        (["--data", "nowhere"], "no images at nowhere"),
        (["--name", "resnet51"], "Unknown backbone 'resnet51'"),
        (["num_classes=3"], "has 2 classes"),
        (["batch_size=7"], "do not fill batch_size = 7"),
        (["--output", ""], "--output is given and empty"),
        (["--eval-only"], "nothing to evaluate"),
    ],
)
def test_errors_are_messages(words, capsys, more, message):
    assert main(["pretrain", *words, *more]) == 2
    assert message in capsys.readouterr().err
