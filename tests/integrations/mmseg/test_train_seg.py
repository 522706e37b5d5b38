"""The front door: a run leaves its report, evaluates again to the same figures, and refuses nonsense readably."""

import json
import uuid
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("mmengine", reason="mmengine is not installed")

from ndpp_dense.cli import main  # noqa: E402

pytestmark = pytest.mark.mmseg


@pytest.fixture
def command(streets, tmp_path):
    """Return a function that runs the tool in this process."""

    def run(*words):
        options = ["train_cfg.max_iters=2", "train_cfg.val_interval=2", f"experiment_name={uuid.uuid4().hex}"]
        common = ["--config", "deeplabv3_ndpp_demo", "--dataset", str(streets), "--work-dir", str(tmp_path / "run")]
        return main(["train-seg", *common, *words, "--cfg-options", *options])

    return run


def test_a_run_leaves_its_report_and_evaluates_again_to_the_same(command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    assert command() == 0
    said = capsys.readouterr().out
    assert "results.json, predictions.png, curves.png" in said
    words = said.rpartition("Try it on a picture of yours: ndpp ")[2].splitlines()[0].split()
    assert main([str(folder / "predictions.png") if word == "IMAGE" else word for word in words]) == 0
    assert Path("out", "predictions.png.png").is_file()
    results = json.loads((folder / "results.json").read_text())["sem_seg"]
    assert 0 <= results["mIoU"] <= 100
    assert {"aAcc", "mAcc", "IoU-road", "IoU-traffic sign"} <= results.keys()
    with Image.open(folder / "curves.png") as curves:
        assert curves.size == (1650, 1050)
    (folder / "results.json").unlink()
    (folder / "predictions.png").unlink()
    assert command("--eval-only", "--resume") == 0
    assert json.loads((folder / "results.json").read_text())["sem_seg"] == results
    assert (folder / "predictions.png").is_file()


def test_errors_are_readable(command, capsys):
    assert command("--eval-only") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: Nothing to evaluate")
    assert "--traceback" in error
