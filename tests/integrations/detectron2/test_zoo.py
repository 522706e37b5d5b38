"""Weights of the model zoo through Detectron2: its paths, its checkpointers, and pictures."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed: ndpp install-detectron2")
pytestmark = pytest.mark.detectron2

TINY = (
    "MODEL.RESNETS.WIDTH_PER_GROUP", "8", "MODEL.RESNETS.STEM_OUT_CHANNELS", "16", "MODEL.FPN.OUT_CHANNELS", "16",
    "MODEL.RPN.CONV_DIMS", "[16]", "MODEL.ROI_BOX_HEAD.FC_DIM", "32", "MODEL.ROI_MASK_HEAD.CONV_DIM", "16",
)  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model zoo of one small detector with random weights; its index."""
    from ndpp_dense import nd_layers
    from ndpp_dense.integrations.detectron2.zoo import build_zoo_model
    from ndpp_dense.zoo import ZooIndex, ZooModel
    from ndpp_dense.zoo.index import write_index
    from ndpp_dense.zoo.publish import write_weights

    torch.manual_seed(0)
    row = ZooModel(
        "tiny", 1, "instance segmentation", "detectron2", "mask_rcnn_ndpp_demo", "generated digits", "none", "MIT",
        "make tiny", overrides=TINY, classes=("1", "2", "3", "4", "5"),
    )  # fmt: skip
    index = ZooIndex(tmp_path_factory.mktemp("zoo") / "index.json", (), {})
    network = build_zoo_model(row)
    layers = {name: layer.config for name, layer in nd_layers(network)}
    index.models["tiny"] = write_weights(row, network.state_dict(), layers, index)
    write_index(index)
    return index, network


@pytest.fixture(autouse=True)
def _environment(tiny, monkeypatch, tmp_path):
    from ndpp_dense.zoo import views

    monkeypatch.setenv("NDPP_ZOO_INDEX", str(tiny[0].path))
    monkeypatch.setenv("NDPP_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(views, "_written", {})


def test_path_manager_gives_a_file_that_detectron2_reads(tiny, monkeypatch):
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.utils.file_io import PathManager

    from ndpp_dense.integrations.detectron2.zoo import build_zoo_model

    index, network = tiny
    torch.manual_seed(1)
    other = build_zoo_model(index.models["tiny"])
    found = []
    checkpointer = DetectionCheckpointer(other)
    monkeypatch.setattr(checkpointer, "_log_incompatible_keys", found.append)
    checkpointer.load(PathManager.get_local_path("ndpp://tiny"))
    assert [(it.missing_keys, it.unexpected_keys, it.incorrect_shapes) for it in found] == [([], [], [])]
    for name, value in network.state_dict().items():
        difference = (other.state_dict()[name] - value).norm() / value.norm().clamp(min=1e-6)
        assert float(difference.detach()) < 1e-3, name
    assert PathManager.isfile("ndpp://tiny")
    assert not PathManager.exists("ndpp://none")


def test_our_checkpointer_says_that_all_is_matched(tiny, tmp_path, caplog):
    from ndpp_dense.integrations.detectron2.checkpoint import NDCheckpointer
    from ndpp_dense.integrations.detectron2.zoo import build_zoo_model

    other = build_zoo_model(tiny[0].models["tiny"])
    with caplog.at_level("INFO", "ndpp_dense"):
        NDCheckpointer(other, str(tmp_path)).resume_or_load("ndpp://tiny", resume=False)
    assert ", 0 unmatched" in caplog.text


def test_a_zoo_that_cannot_be_written_has_views_elsewhere(tiny, tmp_path, monkeypatch):
    from detectron2.utils.file_io import PathManager

    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("NDPP_HOME", str(tmp_path / "file" / "home"))
    with PathManager.open("ndpp://tiny", "rb") as stream:
        assert "model" in torch.load(stream)
    with pytest.raises(ValueError, match="read only"):
        PathManager.open("ndpp://tiny", "wb")


def test_infer_draws_what_it_finds_and_writes_json(tiny, tmp_path, capsys):
    from PIL import Image

    from ndpp_dense.cli import main

    folder = tmp_path / "images" / "inner"
    folder.mkdir(parents=True)
    for name in ("a.png", "a.jpg"):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)).save(folder / name)
    words = ["infer", str(tmp_path / "images"), "--weights", "tiny", "--output", str(tmp_path / "out")]
    assert main([*words, "--json", "--score", "0.05", "--device", "cpu"]) == 0
    for name in ("a.png", "a.jpg"):
        with Image.open(tmp_path / "out" / "inner" / f"{name}.png") as picture:
            assert picture.size == (640, 480)
        found = json.loads((tmp_path / "out" / "inner" / f"{name}.json").read_text())
        assert (found["height"], found["width"]) == (90, 120)
        for instance in found["instances"]:
            assert instance["class"] in "12345"
            assert instance["mask"]["size"] == [90, 120]
            assert instance["score"] >= 0.05
    assert "a.jpg.png: " in capsys.readouterr().out


def test_infer_makes_a_video_of_a_video(tiny, tmp_path):
    import cv2

    from ndpp_dense.cli import main
    from ndpp_dense.cli.images import Video, write_video

    frames = [np.full((64, 96, 3), shade, np.uint8) for shade in (30, 90, 200)]
    write_video(iter(frames), tmp_path / "in.mp4", 10.0)
    words = [
        "infer",
        str(tmp_path / "in.mp4"),
        "--weights",
        "tiny",
        "--output",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    assert main([*words, "--json"]) == 0
    assert Video.open(tmp_path / "out" / "in.mp4").frames == 3
    assert len(json.loads((tmp_path / "out" / "in.json").read_text())["frames"]) == 3
    assert cv2.VideoCapture(str(tmp_path / "out" / "in.mp4")).read()[0]


def test_detections_are_drawn_where_they_are():
    from detectron2.structures import Boxes, Instances

    from ndpp_dense.integrations.detectron2.prediction import Detections

    found = Instances((60, 80), pred_boxes=Boxes(torch.tensor([[10.0, 10, 40, 50]])), scores=torch.tensor([0.9]))
    found.pred_classes = torch.tensor([1])
    found.pred_masks = torch.zeros(1, 60, 80, dtype=torch.bool)
    found.pred_masks[:, 20:40, 15:35] = True
    detections = Detections(np.full((60, 80, 3), 100, np.uint8), found, ("one", "two"))
    picture = detections.picture()
    scale = picture.shape[0] / 60
    inside = picture[int(30 * scale), int(25 * scale)].astype(int)
    outside = picture[int(55 * scale), int(70 * scale)].astype(int)
    assert abs(inside - 100).max() > 20
    assert abs(outside - 100).max() < 5
    record = detections.record()["instances"][0]
    assert (record["class"], record["box"]) == ("two", [10.0, 10.0, 40.0, 50.0])
    from pycocotools import mask as coco_mask

    assert np.array_equal(coco_mask.decode(record["mask"]).astype(bool), found.pred_masks[0].numpy())
    assert detections.summary() == "1 x two"


def test_weights_of_another_model_are_refused(tiny, tmp_path, capsys):
    from ndpp_dense.cli import main
    from ndpp_dense.zoo import ZooIndex
    from ndpp_dense.zoo.index import write_index

    index, _ = tiny
    wider = replace(index.models["tiny"], overrides=(*TINY, "MODEL.FPN.OUT_CHANNELS", "32"))
    other = ZooIndex(tmp_path / "zoo" / "index.json", (), {"tiny": wider})
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "checkpoints").symlink_to(index.path.parent / "checkpoints")
    write_index(other)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NDPP_ZOO_INDEX", str(other.path))
        (tmp_path / "a.mp4").write_bytes(b"no video")
        assert main(["infer", str(tmp_path / "a.mp4"), "--weights", "tiny"]) == 2
    message = capsys.readouterr().err
    assert "tiny does not fit GeneralizedRCNN; nothing was loaded" in message
    assert "backbone.fpn_lateral2.weight" in message


@pytest.mark.slow
def test_the_training_script_starts_from_the_zoo(tiny_config, tiny_coco, tmp_path, monkeypatch, capsys):
    from ndpp_dense.cli import main
    from ndpp_dense.layers import WhiteningConfig
    from ndpp_dense.zoo import ZooIndex
    from ndpp_dense.zoo.index import write_index
    from ndpp_dense.zoo.publish import write_weights

    monkeypatch.chdir(tmp_path)
    ndpp = ("MODEL.META_ARCHITECTURE", "NDPPModel", "MODEL.NDPP.VERIFY", "False")

    def run(folder, *words):
        flags = [word for flag in tiny_coco for word in ("--dataset", flag)]
        files = ["--config", str(tiny_config), *flags, "--output", folder]
        assert main(["train-det", *files, "--device", "cpu", *words, *ndpp]) == 0
        return json.loads((tmp_path / folder / "results.json").read_text())

    before = run("first", "SOLVER.MAX_ITER", "4")
    weights = torch.load(tmp_path / "first" / "model_final.pth", weights_only=True)["model"]
    layers = [name.removesuffix(".whitening.running_cov") for name in weights if name.endswith(".running_cov")]
    index = ZooIndex(tmp_path / "zoo" / "index.json", (), {})
    row = replace(next(iter(load_rows().values())), name="mine", files=())
    config = WhiteningConfig.fast("coco")
    index.models["mine"] = write_weights(row, weights, dict.fromkeys(layers, config), index)
    write_index(index)
    monkeypatch.setenv("NDPP_ZOO_INDEX", str(index.path))
    after = run("second", "--eval-only", "--weights", "mine")
    assert after["segm"]["AP"] == pytest.approx(before["segm"]["AP"], abs=2.0)  # of three images
    capsys.readouterr()
    run("third", "--weights", "ndpp://mine", "SOLVER.MAX_ITER", "1", "SOLVER.BASE_LR", "1e-9")
    assert ", 0 unmatched" in (tmp_path / "third" / "log.txt").read_text()
    tuned = torch.load(tmp_path / "third" / "model_final.pth", weights_only=True)["model"]
    names = [name for name, value in weights.items() if value.dim() > 1 and "whitening" not in name]
    assert max(float((tuned[name] - weights[name]).norm() / weights[name].norm()) for name in names) < 1e-2
    with pytest.raises(SystemExit):
        run("fourth", "--weights", "mein")
    assert "the model zoo has no 'mein'. Did you mean mine?" in capsys.readouterr().err


def load_rows():
    from ndpp_dense.zoo import load_index

    return load_index().models
