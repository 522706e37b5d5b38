import pytest
import torch
from bench import collectives as bench_collectives
from bench import frameworks as bench_frameworks
from bench import pictures as bench_pictures
from bench.case import Settings
from bench.peers import UnfoldNDConv2d
from torch import nn

from ndpp_dense.layers import NDLayer


def _count(model, kind):
    return sum(isinstance(module, kind) for module in model.modules())


@pytest.mark.detectron2
def test_detectors_differ_in_their_norms_alone_and_train():
    pytest.importorskip("detectron2", reason="Detectron2 is not installed: ndpp install-detectron2")
    group = bench_frameworks._detector("GN", Settings())
    assert _count(group, nn.GroupNorm) == 53 + 8 + 4  # backbone, FPN, mask head
    assert _count(group, nn.BatchNorm2d) == 0
    white = bench_frameworks._detector("ND++ unfold", Settings())
    assert _count(white, UnfoldNDConv2d) == 53 + 8 + 4
    assert _count(white, (nn.GroupNorm, nn.BatchNorm2d)) == 0
    names = [{name for name, _ in model.named_parameters() if name.endswith("weight")} for model in (group, white)]
    assert {name for name in names[0] - names[1] if ".norm." not in name} == set()
    bench_frameworks.detector_step("FrozenBN", 1, 64, 64, Settings())()


@pytest.mark.mmseg
def test_segmentors_differ_in_their_norms_alone_and_train():
    pytest.importorskip("mmseg", reason="MMSegmentation is not installed: extra 'mmseg'")
    group, white = (bench_frameworks._segmentor(label) for label in ("GN", "ND++ paper"))
    norms = _count(group, nn.GroupNorm)
    assert norms > 53
    assert _count(white, (nn.GroupNorm, nn.modules.batchnorm._NormBase)) == 0
    assert _count(white, NDLayer) == norms
    bench_frameworks.segmentor_step("BN", 2, 32, 32, Settings())()


@pytest.mark.slow
def test_synchronised_batch_norm_sends_what_it_must():
    found = bench_collectives.traffic(Settings(quick=True), 2, 96)
    channels = 26560  # of all norms of ResNet-50
    assert found["SyncBN"] == {"collectives": 2 * 53, "MB": pytest.approx(2 * 4 * (2 * channels + 53) / 1e6)}
    assert 54 <= found["ND++ fast"]["collectives"] <= 2 * 54  # the second half where there were too few rows
    assert found["ND++ fast, stale"] == {"collectives": 1, "MB": pytest.approx(12.5, abs=0.2)}  # one triangle
    assert found["ND++ paper"]["MB"] > found["ND++ fast"]["MB"] > 24
    assert torch.distributed.is_initialized() is False


def test_heads_have_the_same_regions_whatever_the_network_proposes():
    from detectron2.structures import pairwise_iou

    torch.manual_seed(0)
    picture = bench_pictures.picture(96, 128)
    boxes = bench_pictures.boxes_about(picture["instances"])
    overlaps = pairwise_iou(picture["instances"].gt_boxes, type(picture["instances"].gt_boxes)(boxes))
    assert len(boxes) == 1000
    assert 96 <= int((overlaps.amax(0) >= 0.5).sum()) <= 250
    for label in ("GN", "ND++ fast"):
        model = bench_frameworks._detector(label, Settings()).eval()
        bench_pictures.fix_proposals(model, [boxes])
        images = model.preprocess_image([picture])
        proposals, _ = model.proposal_generator(images, model.backbone(images.tensor))
        assert torch.equal(proposals[0].proposal_boxes.tensor, boxes)
