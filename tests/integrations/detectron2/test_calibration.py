"""Detectors that start as ND++ with the function of weights that were trained with batch norm."""

import logging

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed: ndpp install-detectron2")

from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from ndpp_dense import nd_layers
from ndpp_dense.calibration import training_paths
from ndpp_dense.cli import main
from ndpp_dense.integrations.detectron2.calibration import build_to_start
from ndpp_dense.integrations.detectron2.checkpoint import NDCheckpointer
from ndpp_dense.integrations.detectron2.loader import TrainData
from ndpp_dense.integrations.detectron2.mapper import CheckedDatasetMapper
from ndpp_dense.integrations.detectron2.trainer import NDTrainer
from ndpp_dense.training.prepare import NORM_RULES
from ndpp_dense.training.rng import isolated_rng

pytestmark = pytest.mark.detectron2

PLAIN = ("MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN", "MODEL.ROI_MASK_HEAD.NORM", "")
NDPP = (*PLAIN, "MODEL.META_ARCHITECTURE", "NDPPModel", "MODEL.NDPP.CALIBRATE", "True")
NDPP += ("MODEL.NDPP.BLOCK_SIZE", "4", "MODEL.NDPP.BLOCK_SIZE_SPATIAL", "1", "MODEL.NDPP.BLOCK_SIZE_LINEAR", "4")
NDPP += ("MODEL.NDPP.SAMPLING_STRIDE", "1", "MODEL.NDPP.CALIBRATE_BATCHES", "4")
EXACT = (*NDPP, "MODEL.NDPP.LOCAL_SCALE", "none")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Returns a function that saves what a model of a configuration could be after training, and the file's name."""
    folder = tmp_path_factory.mktemp("weights")

    def save(cfg, name="plain"):
        torch.manual_seed(3)
        model = build_model(cfg)
        generator = torch.Generator().manual_seed(0)
        for module in model.modules():
            if getattr(module, "running_mean", None) is not None:
                module.running_mean.uniform_(-0.3, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
                module.weight.data.uniform_(0.5, 1.2, generator=generator)
                module.bias.data.uniform_(-0.3, 0.3, generator=generator)
        torch.save({"model": model.state_dict()}, folder / f"{name}.pth")
        return str(folder / f"{name}.pth")

    return save


def data_of(cfg):
    return TrainData(cfg, CheckedDatasetMapper(cfg, True))


def losses(model, batch):
    """The losses with the statistics of evaluation."""
    model.eval()
    with torch.no_grad(), isolated_rng(5), EventStorage(0), training_paths(model):
        return {name: value.item() for name, value in model(batch).items()}


def test_a_whole_detector_starts_with_the_same_losses(build_tiny, weights):
    file = weights(build_tiny(*PLAIN))
    cfg = build_tiny(*EXACT, "MODEL.WEIGHTS", file)
    plain = build_model(build_tiny(*PLAIN))
    NDCheckpointer(plain).load(file)
    data = data_of(cfg)
    model, loaded = build_to_start(cfg, lambda: data, False)
    assert loaded
    report = model.ndpp_report
    assert not [record for record in report.records if record.action == "kept"]
    batch = next(data.batches(9, num_workers=0))
    expected = losses(plain, batch)
    assert losses(model, batch) == pytest.approx(expected, rel=1e-3)
    assert set(expected) == {"loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"}


def test_layers_without_weights_start_anew(build_tiny, weights, caplog):
    file = weights(build_tiny(*PLAIN, "MODEL.ROI_BOX_HEAD.FC_DIM", "12"), "other head")
    cfg = build_tiny(*EXACT, "MODEL.WEIGHTS", file)
    torch.manual_seed(11)
    fresh = build_model(build_tiny(*PLAIN)).roi_heads.box_head.fc1.weight
    torch.manual_seed(11)
    with caplog.at_level(logging.INFO, "ndpp_dense"):
        model = build_to_start(cfg, lambda: data_of(cfg), False)[0]
    layers = dict(nd_layers(model))
    assert layers["roi_heads.box_head.fc1"].weight.equal(fresh)
    assert float(layers["roi_heads.box_head.fc1"].whitening.running_weight) > 0
    assert "3 layers start anew (roi_heads.box_head.fc1, roi_heads.box_predictor.bbox_pred, roi" in caplog.text


def test_a_run_goes_on_where_it_was_and_is_not_calibrated_again(build_tiny, weights, tmp_path, monkeypatch):
    file = weights(build_tiny(*PLAIN))
    whole = build_tiny(*NDPP, "MODEL.WEIGHTS", file, "OUTPUT_DIR", str(tmp_path / "whole"))
    halves = build_tiny(*NDPP, "MODEL.WEIGHTS", file, "OUTPUT_DIR", str(tmp_path / "halves"))
    ends = []
    for cfg, stops in ((whole, (6,)), (halves, (3, 6))):
        for number, stop in enumerate(stops):
            torch.manual_seed(1)
            trainer = NDTrainer(cfg, resume=number > 0)
            trainer.resume_or_load(resume=number > 0)
            trainer.max_iter = stop
            trainer.train()
            monkeypatch.setattr("ndpp_dense.integrations.detectron2.calibration._calibrate", _never)
        monkeypatch.undo()
        ends.append(trainer.net.state_dict())
    assert all(value.equal(ends[1][name]) for name, value in ends[0].items())
    held = torch.load(tmp_path / "halves" / "model_final.pth", weights_only=True)
    assert held[NORM_RULES]["backbone.bottom_up.stem.conv1.norm"] is True


def _never(*args):
    raise AssertionError("calibrated again")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "MODEL.WEIGHTS is empty: give some with --weights FILE"),
        (("MODEL.META_ARCHITECTURE", "GeneralizedRCNN"), "'GeneralizedRCNN': choose a config such as mask_rcnn_ndpp"),
        (("MODEL.NDPP.BLOCK_SIZE_LINEAR", "64", "MODEL.NDPP.CALIBRATE_BATCHES", "1"), "Too little data to whiten"),
        (("MODEL.WEIGHTS", "gone.pth"), "gone.pth not found"),
        (("MODEL.WEIGHTS", "group"), "norms without running statistics, the first 'backbone."),
        (("MODEL.WEIGHTS", "nan"), "holds NaN or infinity in 1 weights, the first"),
    ],
)
def test_what_cannot_be_calibrated(tiny_config, tiny_coco, build_tiny, weights, tmp_path, capsys, words, message):
    given = [] if "MODEL.WEIGHTS" in words or not words else ["MODEL.WEIGHTS", weights(build_tiny(*PLAIN))]
    if words[1:] in (("group",), ("nan",)):
        state = torch.load(weights(build_tiny(*PLAIN)), weights_only=True)["model"]
        if words[1] == "nan":
            next(v for n, v in state.items() if n.endswith("running_var"))[0] = float("nan")
        else:
            state = {name: value for name, value in state.items() if "running" not in name}
        torch.save({"model": state}, tmp_path / "other.pth")
        words = ("MODEL.WEIGHTS", str(tmp_path / "other.pth"))
    flags = [word for flag in tiny_coco for word in ("--dataset", flag)]
    output = ["--output", str(tmp_path / "refused")]
    code = main(["train-det", "--config", str(tiny_config), *flags, "--device", "cpu", *output, *NDPP, *given, *words])
    assert code == 2
    assert message in capsys.readouterr().err
