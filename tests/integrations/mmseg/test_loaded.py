"""The log must say how much of a checkpoint a model takes, and one that gives nothing must be refused."""

from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner

pytestmark = pytest.mark.mmseg


def test_the_weights_that_fit_are_counted_and_the_others_named(train, run_config, tmp_path):
    trained = train("first")
    file = Path(trained.work_dir) / "iter_4.pth"
    runner = Runner.from_cfg(run_config("all", load_from=str(file)))
    runner.load_or_resume()
    log = "".join(path.read_text() for path in Path(runner.work_dir).glob("*/*.log"))
    weights = [name for name in runner.model.state_dict() if not name.endswith(".num_batches_tracked")]
    assert f"load_from: {len(weights)} of {len(weights)} weights taken from {file}, 0 unmatched" in log
    assert "what does not fit" not in log

    checkpoint = torch.load(file, weights_only=False)  # of this test: MMEngine keeps a log in it
    state = checkpoint["state_dict"]
    state["decode_head.conv_seg.bias"] = torch.zeros(3)
    del state["backbone.layer1.0.conv1.weight"]
    torch.save(checkpoint, tmp_path / "other.pth")
    runner = Runner.from_cfg(run_config("part", load_from=str(tmp_path / "other.pth")))
    runner.load_or_resume()
    log = "".join(path.read_text() for path in Path(runner.work_dir).glob("*/*.log"))
    assert f"load_from: {len(weights) - 2} of {len(weights)} weights taken from" in log
    table = log.split("what does not fit", 1)[1]
    assert "missing  backbone.layer1.0.conv1.weight" in table
    assert "decode_head.conv_seg.bias" in table


def test_a_checkpoint_that_gives_nothing_is_refused(run_config, tmp_path):
    torch.save({"state_dict": {"fc.weight": torch.zeros(2, 2)}}, tmp_path / "classifier.pth")
    runner = Runner.from_cfg(run_config(load_from=str(tmp_path / "classifier.pth")))
    with pytest.raises(ValueError, match=r"none of the \d+ weights of the model is in .*classifier.pth") as caught:
        runner.load_or_resume()
    assert "left over  fc.weight" in str(caught.value)
    assert "init_cfg" in str(caught.value)
