"""Weights of the model zoo through MMEngine and MMSegmentation, and pictures."""

import json
import shutil
import uuid

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg", reason="MMSegmentation is not installed: extra 'mmseg'")
pytestmark = pytest.mark.mmseg

SMALL = (
    "model.backbone.stem_channels=8", "model.backbone.base_channels=8", "model.decode_head.in_channels=64",
    "model.decode_head.channels=16", "model.auxiliary_head.in_channels=32", "model.auxiliary_head.channels=8",
)  # fmt: skip
CLASSES = ("road", "sidewalk", "building", "traffic sign", "vegetation", "sky", "person", "car")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model zoo of one small segmentor with random weights; its index."""
    from ndpp_dense import nd_layers
    from ndpp_dense.integrations.mmseg.zoo import build_zoo_model
    from ndpp_dense.zoo import ZooIndex, ZooModel
    from ndpp_dense.zoo.index import write_index
    from ndpp_dense.zoo.publish import write_weights

    torch.manual_seed(0)
    row = ZooModel(
        "tiny", 1, "semantic segmentation", "mmseg", "deeplabv3_ndpp_demo", "generated streets", "none", "MIT",
        "make tiny", overrides=SMALL, classes=CLASSES,
    )  # fmt: skip
    index = ZooIndex(tmp_path_factory.mktemp("zoo") / "index.json", (), {})
    network = build_zoo_model(row)
    layers = {name: layer.config for name, layer in nd_layers(network)}
    index.models["tiny"] = write_weights(row, network.state_dict(), layers, index)
    write_index(index)
    return index, network


@pytest.fixture(autouse=True)
def _environment(tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("NDPP_ZOO_INDEX", str(tiny[0].path))
    monkeypatch.setenv("NDPP_HOME", str(tmp_path / "home"))


def test_mmengine_loads_all_of_it(tiny):
    from mmengine.runner import CheckpointLoader

    from ndpp_dense.integrations.mmseg.zoo import build_zoo_model

    index, network = tiny
    torch.manual_seed(1)
    other = build_zoo_model(index.models["tiny"])
    checkpoint = CheckpointLoader.load_checkpoint("ndpp://tiny", map_location="cpu")
    found = other.load_state_dict(checkpoint["state_dict"], strict=True)
    assert (found.missing_keys, found.unexpected_keys) == ([], [])
    assert checkpoint["meta"]["dataset_meta"]["classes"] == CLASSES
    for name, value in network.state_dict().items():
        difference = (other.state_dict()[name] - value).norm() / value.norm().clamp(min=1e-6)
        assert float(difference.detach()) < 1e-3, name


def test_a_backbone_starts_from_it(tiny):
    from mmengine.registry import MODELS

    index, network = tiny
    from ndpp_dense.integrations.mmseg.zoo import zoo_config

    model = zoo_config(index.models["tiny"]).model
    model.backbone.init_cfg = {"type": "Pretrained", "checkpoint": "ndpp://tiny", "prefix": "backbone."}
    built = MODELS.build(model)
    built.init_weights()
    own, wanted = built.state_dict(), network.state_dict()
    name = "backbone.layer1.0.conv1.weight"
    assert torch.allclose(own[name], wanted[name], atol=1e-3)


def test_infer_colours_images_and_writes_json(tiny, tmp_path, capsys):
    from PIL import Image

    from ndpp_dense.cli import main

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)).save(tmp_path / "street.png")
    words = ["infer", str(tmp_path / "street.png"), "--weights", "ndpp://tiny", "--output", str(tmp_path / "out")]
    assert main([*words, "--json", "--device", "cpu"]) == 0
    with Image.open(tmp_path / "out" / "street.png.png") as picture:
        assert picture.width >= 640
    record = json.loads((tmp_path / "out" / "street.png.json").read_text())
    assert sum(length for length, _ in record["runs"]) == 96 * 128
    assert sum(record["shares"].values()) == pytest.approx(1, abs=1e-2)
    assert record["classes"] == list(CLASSES)
    assert "%" in capsys.readouterr().out


def test_one_process_evaluates_one_after_the_other(tiny, streets, tmp_path):
    from ndpp_dense.integrations.mmseg.zoo import evaluate_zoo_model

    index, network = tiny
    found = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        found.append(evaluate_zoo_model(index.models["tiny"], network.state_dict(), str(streets), folder))
        shutil.rmtree(folder)  # as the folder of an evaluation is
    assert found[0] == found[1]
    assert 0 <= found[0]["mIoU"] <= 100


def test_labels_come_in_colours_and_runs():
    from ndpp_dense.integrations.mmseg.prediction import Segmentation

    labels = np.zeros((40, 60), np.int64)
    labels[:, 30:] = 1
    found = Segmentation(np.zeros((40, 60, 3), np.uint8), labels, ("one", "two"), ((255, 0, 0), (0, 0, 255)))
    picture = found.picture()
    middle = picture[picture.shape[0] // 3]
    reds, blues = (np.flatnonzero((middle[:, channel] > 100) & (middle[:, 1] == 0)) for channel in (0, 2))
    assert len(reds) > 100
    assert len(blues) > 100
    assert reds.max() < blues.min()
    assert found.record()["runs"][:3] == [[30, 0], [30, 1], [30, 0]]
    assert found.summary() == "50% one, 50% two"


@pytest.mark.slow
def test_the_training_script_starts_from_the_zoo(tiny, streets, tmp_path, monkeypatch, capsys):
    from ndpp_dense.cli import main

    folder = tmp_path / "run"

    def run(*words):
        options = ["train_cfg.max_iters=1", "train_cfg.val_interval=1", f"experiment_name={uuid.uuid4().hex}", *SMALL]
        common = ["--config", "deeplabv3_ndpp_demo", "--dataset", str(streets), "--work-dir", str(folder)]
        assert main(["train-seg", *common, *words, "--cfg-options", *options, "optim_wrapper.optimizer.lr=1e-9"]) == 0
        return json.loads((folder / "results.json").read_text())["sem_seg"]

    index, network = tiny
    evaluated = run("--eval-only", "--weights", "ndpp://tiny")
    assert 0 <= evaluated["mIoU"] <= 100
    run("--weights", "tiny")
    log = "".join(path.read_text() for path in folder.glob("*/*.log"))
    assert "weights taken from ndpp://tiny, 0 unmatched" in log
    assert "missing keys" not in log
    assert "unexpected key" not in log
    tuned = torch.load(folder / "iter_1.pth", weights_only=False)["state_dict"]
    for name, value in network.state_dict().items():
        if value.dim() > 1 and "whitening" not in name:
            assert float((tuned[name] - value).norm() / value.norm().clamp(min=1e-6)) < 1e-2, name
    with pytest.raises(SystemExit):
        run("--weights", "tinny")
    assert "the model zoo has no 'tinny'. Did you mean tiny?" in capsys.readouterr().err
