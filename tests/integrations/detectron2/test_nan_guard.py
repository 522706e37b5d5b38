"""A diverged run must name the layer and leave the last good checkpoint alone."""

import pytest
import torch
from torch import nn

from ndpp_dense import NDConv2d, WhiteningConfig, convert_to_ndpp
from ndpp_dense.integrations.detectron2.nan_guard import divergence_message, first_nonfinite_layer
from ndpp_dense.integrations.detectron2.trainer import NDTrainer

pytestmark = pytest.mark.detectron2


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)), nn.ReLU())
    return model.train()


def find(model, image=None, **options):
    image = torch.randn(2, 3, 5, 5) if image is None else image
    return first_nonfinite_layer(model, lambda: model(image), **options)


def test_finite_is_none(net):
    assert find(net) is None


def test_the_innermost_first_layer_and_its_weight(net):
    with torch.no_grad():
        net[1][0].weight[0] = float("inf")
    layer = find(net)
    assert (layer.name, layer.kind, layer.bad_inputs, layer.bad_weights) == ("1.0", "Conv2d", False, ("weight",))
    assert "'1.0' (Conv2d) with finite input, non-finite weights weight, finite buffers" in str(layer)


def test_a_bad_buffer_is_told_apart(net):
    net.eval()
    net[1][1].running_var.fill_(float("nan"))
    layer = find(net)
    assert (layer.name, layer.bad_weights, layer.bad_buffers) == ("1.1", (), ("running_var",))


def test_a_bad_input_is_told_apart(net):
    layer = find(net, torch.full((2, 3, 5, 5), float("nan")))
    assert (layer.name, layer.bad_inputs) == ("0", True)


def test_hooks_are_gone_and_errors_of_the_model_do_not_hide_the_layer(net):
    class Raises(nn.Module):
        def forward(self, x):
            raise FloatingPointError("proposals are not finite")

    with torch.no_grad():
        net[0].bias[0] = float("nan")
    model = nn.Sequential(net, Raises())
    assert find(model).name == "0.0"
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("alone", [False, True])
def test_looking_changes_no_statistics(alone):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    convert_to_ndpp(model, WhiteningConfig.fast("coco"))
    model.train()
    assert isinstance(model[0], NDConv2d)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert find(model, alone=alone) is None
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    assert all(module.training for module in model.modules())


def test_message_without_layer_and_checkpoint():
    text = divergence_message(3, "the losses are a nan", None, None)
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
