"""Detectors through the measurement of shifts."""

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed: ndpp install-detectron2")


@pytest.fixture
def weights(build_tiny, tmp_path):
    from detectron2.modeling import build_model

    torch.manual_seed(0)
    path = tmp_path / "tiny.pth"
    torch.save({"model": build_model(build_tiny()).state_dict()}, path)
    return str(path)


@pytest.fixture
def opened(tiny_config, tiny_coco, weights):
    from ndpp_dense.integrations.detectron2.shift import open_detector

    def make(**options):
        given = {"config": str(tiny_config), "datasets": tiny_coco, **options}
        return open_detector(options.pop("weights", weights), **given)

    return make


def test_pictures_and_labels_have_the_size_that_the_network_sees(opened):
    subject = opened()
    assert len(subject.images) == 3
    for picture, boxes in subject.images:
        assert picture.dtype == torch.uint8
        assert min(picture.shape[1:]) == 64
        assert len(boxes) == 2
        for edges in np.round(boxes.edges).astype(int):  # the shapes are red, the ground is dark
            inside = picture[0, edges[1] + 3 : edges[3] - 3, edges[0] + 3 : edges[2] - 3].float()
            assert inside.mean() > 150
    assert subject.facts["data"] == "tiny_val"
    assert len(subject.facts["sha256"]) == 64


def test_answers_are_those_of_the_network(opened, build_tiny, weights):
    from detectron2.modeling import build_model

    from ndpp_dense.integrations.detectron2.checkpoint import NDCheckpointer

    subject = opened(overrides=["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"])
    picture, _ = subject.images[0]
    network = build_model(build_tiny("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0")).eval()
    NDCheckpointer(network).load(weights)
    with torch.no_grad():
        expected = network([{"image": picture.flip(0).float()}])[0]["instances"]
    found = subject.predict([picture])[0]
    assert len(found) == len(expected) > 0
    assert np.allclose(found.edges, expected.pred_boxes.tensor.numpy(), atol=1e-3)


def test_measured(opened):
    from ndpp_dense.robustness.shift import measure_shifts, shift_grid

    subject = opened(score=0.0, overrides=["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"])
    result = measure_shifts(subject, shift_grid([-8, 8], "x"), batch_size=2)
    assert [measure.name for measure in result.measures] == ["AP50", "agreement", "overlap"]
    assert result.values("agreement")[0] == result.values("overlap")[0] == 1
    assert result.counts["AP50"][:, :, 0, -1].sum(1).tolist() == [6, *result.counts["AP50"][1:, :, 0, -1].sum(1)]


def test_weights_need_a_config(weights):
    from ndpp_dense.integrations.detectron2.shift import open_detector

    with pytest.raises(ValueError, match=r"tiny\.pth: name the config"):
        open_detector(weights)
