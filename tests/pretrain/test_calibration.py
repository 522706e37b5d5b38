"""Classifiers that start as ND++ with the function of weights that were trained with batch norm."""

from itertools import islice

import pytest
import torch

from ndpp_dense import nd_layers
from ndpp_dense.pretrain import calibration
from ndpp_dense.pretrain.calibration import build_to_start
from ndpp_dense.pretrain.images import open_images
from ndpp_dense.pretrain.network import build_network
from ndpp_dense.pretrain.stream import TrainStream, train_batches
from ndpp_dense.pretrain.trainer import Pretrainer
from ndpp_dense.training.prepare import NORM_RULES

CPU = torch.device("cpu")
SMALL = {"block_size": 4, "block_size_spatial": 1, "block_size_linear": 4, "sampling_stride": 1}
EXACT = {"calibrate": True, "calibrate_batches": 3, "ndpp": {**SMALL, "local_scale": "none"}}


@pytest.fixture
def plain(tiny, tmp_path):
    """Returns a function that saves a plain network of so many classes, as after training, and the file's name."""

    def save(classes=2):
        torch.manual_seed(1)
        network = build_network(tiny(ndpp=None), classes)
        generator = torch.Generator().manual_seed(0)
        for module in network.modules():
            if getattr(module, "running_mean", None) is not None:
                module.running_mean.uniform_(-0.3, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
                module.weight.data.uniform_(0.5, 1.2, generator=generator)
                module.bias.data.uniform_(-0.3, 0.3, generator=generator)
        torch.save(network.state_dict(), tmp_path / "plain.pth")
        return network.eval(), str(tmp_path / "plain.pth")

    return save


@pytest.fixture
def batches(tree, tiny):
    """Returns a function that gives training batches from a seed."""
    images, _ = open_images(tree)
    return lambda seed: train_batches(TrainStream(images, tiny(), seed, 0, 0, 1), tiny(), CPU, workers=0)


def test_the_same_answers(tiny, plain, batches):
    original, file = plain()
    network = build_to_start(tiny(weights=file, **EXACT), 2, CPU, batches, None)
    assert len(list(nd_layers(network))) > 10
    for images, _ in islice(batches(7), 2):
        with torch.no_grad():
            torch.testing.assert_close(network.eval()(images), original(images), rtol=1e-3, atol=1e-4)


def test_a_classifier_of_other_classes_starts_anew(tiny, plain, batches, caplog):
    _, file = plain(5)
    with caplog.at_level("INFO", "ndpp_dense"):
        network = build_to_start(tiny(weights=file, **EXACT), 2, CPU, batches, None)
    assert network.fc.weight.shape == (2, network.fc.in_features)
    assert "1 layers start anew (fc)" in caplog.text


def test_nothing_is_calibrated_again(tiny, plain, tree, tmp_path, monkeypatch, differences):
    _, file = plain()
    images, val = open_images(tree)
    settings = tiny(weights=file, **{**EXACT, "ndpp": SMALL})
    for folder, stop in (("whole", None), ("halves", 1)):
        trainer = Pretrainer(settings, images, val, CPU, tmp_path / folder)
        if stop:
            trainer.total = stop * trainer.state.steps_per_epoch
        trainer.train()
    monkeypatch.setattr(calibration, "_calibrate", _never)
    trainer = Pretrainer(settings, images, val, CPU, tmp_path / "halves", resume=True)
    assert trainer.resume()
    trainer.train()
    assert differences(tmp_path / "whole" / "last.pth", tmp_path / "halves" / "last.pth") == []
    best = torch.load(tmp_path / "whole" / "best.pth", weights_only=True)
    assert NORM_RULES in best
    assert not best["config"]["calibrate"]  # whoever builds the network of a checkpoint has its weights
    again = tiny(weights=str(tmp_path / "whole" / "last.pth"), **{**EXACT, "ndpp": SMALL})
    network = build_to_start(again, 2, CPU, _never, None)
    assert network.fc.weight.equal(trainer.state.network.fc.weight)


def _never(*args):
    raise AssertionError("calibrated again")


def test_what_cannot_be_calibrated(tiny, plain, batches):
    with pytest.raises(ValueError, match=r"there are no weights \(--weights FILE\)"):
        tiny(calibrate=True)
    with pytest.raises(ValueError, match="there are no ndpp settings"):
        tiny(calibrate=True, weights="a.pth", ndpp=None)
    _, file = plain()
    with pytest.raises(ValueError, match="does not fit"):
        build_to_start(tiny(weights=file, name="resnet18", **EXACT), 2, CPU, batches, None)
