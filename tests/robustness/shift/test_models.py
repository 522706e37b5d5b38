"""Classifiers of ndpp pretrain and of timm, with images from a folder."""

import numpy as np
import pytest
import torch
from PIL import Image

from ndpp_dense.robustness.shift import measure_shifts, open_classifier, shift_grid
from ndpp_dense.robustness.shift.models import evenly

timm = pytest.importorskip("timm", reason="timm is not installed: extra 'pretrain'")
CONFIG = "name: test_resnet\nimage_size: 32\nworkers: 0\nndpp: {block_size: 8, block_size_spatial: 2}\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An ImageNet tree of three classes, a config, and weights for it."""
    root = tmp_path_factory.mktemp("shift")
    for split in ("train", "val"):
        for number, name in enumerate(("n01440764", "n02102040", "n03888257")):
            place = root / "data" / split / name
            place.mkdir(parents=True)
            for index in range(2):
                pixels = np.random.default_rng(10 * number + index).integers(0, 255, (40, 48, 3)).astype("uint8")
                Image.fromarray(pixels).save(place / f"{index}.png")
    (root / "tiny.yaml").write_text(CONFIG)
    from ndpp_dense.pretrain.config_loading import load_config
    from ndpp_dense.pretrain.network import build_network

    torch.manual_seed(0)
    network = build_network(load_config(root / "tiny.yaml")[0], 3)
    network.train()(torch.randn(8, 3, 32, 32))  # statistics of its own
    torch.save(network.state_dict(), root / "tiny.pth")
    torch.save(timm.create_model("test_resnet", num_classes=1000).state_dict(), root / "thousand.pth")
    torch.save(timm.create_model("test_resnet", num_classes=1000).state_dict(), root / "broken.pth")
    return root


def opened(folder, **options):
    given = {"config": str(folder / "tiny.yaml"), "weights": str(folder / "tiny.pth"), **options}
    return open_classifier(folder / "data", **given)


def test_pictures_and_answers_are_those_of_the_evaluation(folder):
    from ndpp_dense.pretrain.config_loading import load_config
    from ndpp_dense.pretrain.evaluation import evaluate
    from ndpp_dense.pretrain.images import open_images
    from ndpp_dense.pretrain.network import build_network
    from ndpp_dense.pretrain.stream import ValidationShard, validation_batches

    config = load_config(folder / "tiny.yaml", [f"weights={folder / 'tiny.pth'}"])[0]
    network, cpu = build_network(config, 3).eval(), torch.device("cpu")
    shard = ValidationShard(open_images(folder / "data")[1])
    images, targets = next(validation_batches(shard, config, cpu, 6))
    subject = opened(folder)
    pictures, labels = zip(*(subject.images[number] for number in range(6)), strict=True)
    assert list(labels) == targets.tolist()
    with torch.no_grad():
        expected = network(images).numpy()
    assert np.allclose(np.stack(subject.predict(torch.stack(pictures))), expected, atol=2e-4)
    result = measure_shifts(subject, shift_grid([-4, 4], "x"), batch_size=4)
    top1 = evaluate(network, [(images, targets)], config, cpu)["top1"]
    assert 100 * result.values("accuracy")[0] == pytest.approx(top1)
    assert subject.name == "tiny"
    assert subject.stride == 32
    assert subject.facts["weights"] == "tiny.pth"
    assert len(subject.facts["sha256"]) == 64


def test_a_model_of_timm_is_compared_on_its_own_classes(folder, caplog):
    subject = opened(folder, config=None, model="test_resnet", weights=str(folder / "thousand.pth"), limit=3)
    assert [target for _, target in subject.images] == [0, 217, 701]  # of ImageNet's classes
    result = measure_shifts(subject, shift_grid([-4, 4], "x"))
    assert [measure.name for measure in result.measures] == ["accuracy", "agreement", "confidence"]
    (folder / "data" / "val" / "n01440764").rename(folder / "data" / "val" / "fish")
    (folder / "data" / "train" / "n01440764").rename(folder / "data" / "train" / "fish")
    try:
        other = opened(folder, config=None, model="test_resnet", weights=str(folder / "thousand.pth"))
        assert other.images[0][1] is None
        assert "The network has 1000 classes, other ones than the images" in caplog.text
    finally:
        (folder / "data" / "val" / "fish").rename(folder / "data" / "val" / "n01440764")
        (folder / "data" / "train" / "fish").rename(folder / "data" / "train" / "n01440764")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"config": None}, ValueError, "give either a config of ndpp pretrain"),
        ({"model": "test_resnet"}, ValueError, "give either a config"),
        ({"weights": ""}, ValueError, "name the weights, such as output/tiny/last.pth"),
        ({"weights": "nowhere.pth"}, FileNotFoundError, "weights nowhere.pth not found"),
        ({"config": None, "model": "test_resnett"}, ValueError, "timm has no model 'test_resnett'. Near: test"),
        ({"overrides": ["image_sizes=3"]}, KeyError, "no setting 'image_sizes'"),
        ({"limit": 0}, ValueError, "limit = 0: at least one image must be measured"),
    ],
)
def test_refused(folder, options, error, message):
    with pytest.raises(error, match=message):
        opened(folder, **options)


def test_limits_are_spread_evenly():
    assert evenly(10, 4) == [0, 2, 5, 7]
    assert evenly(3, 9) == evenly(3, None) == [0, 1, 2]
    assert evenly(0, 4) == []
