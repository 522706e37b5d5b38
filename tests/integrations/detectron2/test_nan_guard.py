"""A diverged run must name the layer and leave the last good checkpoint alone."""

import pytest
import torch

from ndpp_dense.integrations.detectron2.trainer import ADVICE, NDTrainer
from ndpp_dense.training.nonfinite import divergence_message

pytestmark = pytest.mark.detectron2


def test_message_without_layer_and_checkpoint():
    text = divergence_message(3, "the losses are a nan", None, None, ADVICE)
    assert "iteration 3" in text
    assert "no checkpoint yet" in text


def test_training_names_the_layer_and_keeps_the_checkpoint(build_tiny, tmp_path):
    trainer = NDTrainer(build_tiny("SOLVER.CHECKPOINT_PERIOD", 1, "OUTPUT_DIR", tmp_path))
    step = trainer.run_step

    def poisoned_step():
        if trainer.iter == 2:
            with torch.no_grad():
                trainer.net.backbone.fpn_output3.weight[0] = float("nan")
        step()

    trainer.run_step = poisoned_step
    pattern = r"iteration 2: .*'backbone.fpn_output3' .*non-finite weights weight.*model_0000001.pth; nothing was saved"
    with pytest.raises(FloatingPointError, match=pattern):
        trainer.train()
    saved = torch.load(tmp_path / "model_0000001.pth", weights_only=True)
    assert all(value.isfinite().all() for value in saved["model"].values())
    assert not (tmp_path / "model_final.pth").exists()
    assert not (tmp_path / "results.json").exists()


def test_a_loss_that_overflows_is_reported_with_its_parts(build_tiny, tmp_path):
    trainer = NDTrainer(build_tiny("OUTPUT_DIR", tmp_path))
    forward = trainer.net.forward
    factors = {"loss_mask": float("inf")}
    trainer.net.forward = lambda batch: {name: loss * factors.get(name, 1) for name, loss in forward(batch).items()}
    with pytest.raises(FloatingPointError, match=r"loss_mask inf.*There is no checkpoint yet"):
        trainer.train()
