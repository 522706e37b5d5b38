"""timm networks under Detectron2's feature pyramid, plain, with ND++, and calibrated from their weights."""

import logging

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed: ndpp install-detectron2")
pytest.importorskip("timm", reason="timm is not installed: extra 'pretrain'")

import timm
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from ndpp_dense import nd_layers
from ndpp_dense.calibration import training_paths
from ndpp_dense.integrations.detectron2.calibration import build_to_start
from ndpp_dense.integrations.detectron2.loader import TrainData
from ndpp_dense.integrations.detectron2.mapper import CheckedDatasetMapper
from ndpp_dense.training.rng import isolated_rng

pytestmark = pytest.mark.detectron2

FAMILIES = ("resnet10t", "mobilenetv3_small_050", "tf_efficientnet_lite0", "convnext_atto", "regnetx_002")
TIMM = ("MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "INPUT.FORMAT", "RGB")
SMALL = ("MODEL.NDPP.SAMPLING_STRIDE", "1", "MODEL.NDPP.BLOCK_SIZE", "4", "MODEL.NDPP.BLOCK_SIZE_SPATIAL", "1")
SMALL += ("MODEL.NDPP.BLOCK_SIZE_LINEAR", "4", "MODEL.NDPP.CALIBRATE_BATCHES", "2")


def data_of(cfg):
    return TrainData(cfg, CheckedDatasetMapper(cfg, True))


@pytest.mark.parametrize("architecture", ["GeneralizedRCNN", "NDPPModel"])
@pytest.mark.parametrize("name", FAMILIES)
def test_families_train_plain_and_with_nd(build_tiny, name, architecture):
    cfg = build_tiny(*TIMM, *SMALL, "MODEL.TIMM.NAME", name, "MODEL.META_ARCHITECTURE", architecture)
    model = build_model(cfg).train()
    body = [key for key, _ in nd_layers(model) if key.startswith("backbone.bottom_up.")]
    assert bool(body) == (architecture == "NDPPModel")
    with EventStorage(0):
        sum(model(next(data_of(cfg).batches(0, num_workers=0))).values()).backward()
    silent = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert [key for key in silent if key.startswith("backbone.fpn") or ".layer1." in key] == []


def test_a_pretrained_network_is_calibrated_under_new_heads(build_tiny, tmp_path, caplog):
    torch.manual_seed(2)
    whole = timm.create_model("resnet10t")
    for module in whole.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 2)
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    chosen = (*TIMM, "MODEL.TIMM.NAME", "resnet10t", "MODEL.TIMM.WEIGHTS", str(tmp_path / "whole.pth"))
    nd = ("MODEL.META_ARCHITECTURE", "NDPPModel", "MODEL.NDPP.CALIBRATE", "True", "MODEL.NDPP.LOCAL_SCALE", "none")
    cfg, plain = build_tiny(*chosen, *SMALL, *nd), build_tiny(*chosen)
    with caplog.at_level(logging.INFO, "ndpp_dense"):
        model, loaded = build_to_start(cfg, lambda: data_of(cfg), False)
    assert loaded
    assert "layers start anew (backbone.fpn_lateral2" in caplog.text
    assert "timm trained resnet10t with MODEL.PIXEL_MEAN [123.675, 116.28, 103.53]" in caplog.text
    torch.manual_seed(0)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        got, expected = (m.eval().backbone.bottom_up(x) for m in (model, build_model(plain)))
    for name, value in expected.items():
        assert ((got[name] - value).norm() / value.norm()).item() < 1e-3
    batch = next(data_of(cfg).batches(3, num_workers=0))
    with torch.no_grad(), isolated_rng(1), EventStorage(0), training_paths(model):
        assert all(torch.isfinite(loss) for loss in model(batch).values())


def test_stages_are_frozen_with_their_statistics(build_tiny):
    chosen = (*TIMM, *SMALL, "MODEL.TIMM.NAME", "resnet10t", "MODEL.BACKBONE.FREEZE_AT", "2")
    model = build_model(build_tiny(*chosen, "MODEL.META_ARCHITECTURE", "NDPPModel"))
    frozen = {name for name, layer in nd_layers(model) if layer.whitening.frozen}
    assert frozen
    assert all(".conv1." in name or ".layer1." in name for name in frozen)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("MODEL.TIMM.NAME", "resnet10"), "MODEL.TIMM: timm has no model 'resnet10'"),
        (("MODEL.TIMM.NAME", "resnet10t", "MODEL.TIMM.OUT_INDICES", "[4]"), "FPN.IN_FEATURES names res2, res3, res4"),
    ],
)
def test_what_cannot_be(build_tiny, words, message):
    with pytest.raises(ValueError, match=message):
        build_model(build_tiny(*TIMM, *words))
