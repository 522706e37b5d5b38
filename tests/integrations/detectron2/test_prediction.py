"""`ndpp infer` with the checkpoint of a run of the user's own."""

import numpy as np
import pytest
import torch

from ndpp_dense.cli import main

pytestmark = pytest.mark.detectron2


@pytest.fixture
def run(build_tiny, tmp_path):
    """The folder of a run, as training leaves it; its checkpoint says that some norms stay."""
    from detectron2.modeling import build_model
    from PIL import Image

    from ndpp_dense.integrations.detectron2.checkpoint import NDCheckpointer
    from ndpp_dense.integrations.detectron2.class_names import write_class_names
    from ndpp_dense.integrations.detectron2.run_config import prepare_run

    torch.manual_seed(0)
    cfg = build_tiny("MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", "NDPPModel", "MODEL.NDPP.VERIFY", False)
    prepare_run(cfg)
    write_class_names(cfg)
    NDCheckpointer(build_model(cfg), cfg.OUTPUT_DIR).save("model_best")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "run"


def infer(folder, *words):
    return main(
        ["infer", str(folder.parent / "a.png"), "--output", str(folder / "out"), "--device", "cpu", *map(str, words)]
    )


def test_a_checkpoint_predicts_with_the_config_beside_it(run, capsys):
    assert infer(run, "--weights", run / "model_best.pth", "--score", "0.0") == 0
    said = capsys.readouterr().out
    assert (run / "out" / "a.png.png").is_file()
    assert "x square" in said or "x bar" in said
    (run / "classes.txt").unlink()  # runs of earlier releases have none
    assert infer(run, "--weights", run / "model_best.pth", "--score", "0.0") == 0
    assert "x 0" in (numbers := capsys.readouterr().out) or "x 1" in numbers


def test_what_a_checkpoint_lacks_is_said(run, tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    file = (run / "model_best.pth").rename(tmp_path / "elsewhere" / "model.pth")
    (file.parent / "config.py").write_text("raise SystemExit(7)")  # a stranger's
    assert infer(run, "--weights", file) == 2
    said = capsys.readouterr().err
    assert (
        "no config.yaml is beside it, as `ndpp train-det` writes it. Name the config that it was trained with" in said
    )
    assert f"such as --config {file.parent / 'config.py'}" in said
    assert infer(run, "--weights", file, "--config", run / "config.yaml") == 0
    assert infer(run, "--weights", run) == 2
    assert "is a folder: name a checkpoint in it" in capsys.readouterr().err
    assert infer(run, "--weights", file, "--config", "mask_rcnn_ndpp_demo") == 2
    said = capsys.readouterr().err
    assert "does not fit the model of" in said
    assert "Give the config that it was trained with: --config FILE." in said
