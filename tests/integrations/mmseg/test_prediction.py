"""`ndpp infer` with the checkpoint of a run of the user's own."""

import numpy as np
import pytest
import torch

from ndpp_dense.cli import main

pytest.importorskip("mmseg", reason="MMSegmentation is not installed: extra 'mmseg'")
pytestmark = pytest.mark.mmseg


def test_a_checkpoint_predicts_with_the_config_that_is_named(run_config, tmp_path, capsys):
    import mmseg.models  # noqa: F401  (registers them)
    from mmengine.registry import MODELS, init_default_scope
    from PIL import Image

    image, weights, config = tmp_path / "a.png", tmp_path / "iter_6.pth", tmp_path / "config.py"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)).save(image)
    settings = run_config()
    settings.dump(str(config))
    torch.manual_seed(0)
    init_default_scope("mmseg")
    network = MODELS.build(settings.model)
    meta = {"dataset_meta": {"classes": [f"kind {number}" for number in range(8)]}}
    torch.save({"state_dict": network.state_dict(), "meta": meta}, weights)
    words = ["infer", str(image), "--weights", str(weights), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main(words) == 2
    assert f"such as --config {config}" in capsys.readouterr().err
    assert main([*words, "--config", str(config)]) == 0
    assert "kind" in capsys.readouterr().out
    assert (tmp_path / "out" / "a.png.png").is_file()
