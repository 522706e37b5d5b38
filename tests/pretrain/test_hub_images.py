"""Data sets of Hugging Face, read by index; a folder of files stands for one of the hub."""

import io
import sys
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from ndpp_dense.pretrain.images import open_images
from ndpp_dense.pretrain.stream import TrainStream, train_batches


def test_without_the_package_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match="pip install datasets"):
        open_images("hfds/org/name")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The package, which keeps its copies in the test's folder and asks no network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="Hugging Face's datasets is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return datasets


def test_a_folder_of_images(hub, tree):
    train, val = open_images(f"hfds/{tree}")
    loose = open_images(tree)[0]
    assert train.classes == val.classes == ("n01", "n02")
    assert (len(train), len(val)) == (24, 10)
    pixels = {np.asarray(loose.load(index)[0]).tobytes(): loose.load(index)[1] for index in range(24)}
    found = [train.load(index) for index in range(24)]
    assert {np.asarray(image).tobytes(): target for image, target in found} == pixels


def test_a_run_goes_on_where_it_stopped(hub, tree, tiny):
    images, config = open_images(f"hfds/{tree}")[0], tiny()

    def take(start, count, workers=0):
        stream = TrainStream(images, config, seed=3, start=start)
        return list(islice(train_batches(stream, config, torch.device("cpu"), workers=workers), count))

    for (a, b), (c, d) in zip(take(0, 4)[2:], take(2, 2, workers=1), strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


def write(hub, folder, labels, splits=("train", "test"), label=None):
    """A data set in parquet files, with bytes of small images."""
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), (9, 99, 200)).save(stream, "PNG")
    features = hub.Features({"image": hub.Image(), "label": label or hub.ClassLabel(names=["a", "b"])})
    rows = {"image": [{"bytes": stream.getvalue(), "path": None}] * len(labels), "label": labels}
    folder.mkdir()
    for split in splits:
        hub.Dataset.from_dict(rows, features=features).to_parquet(str(folder / f"{split}-00000.parquet"))
    return f"hfds/{folder}"


def test_a_test_split_stands_in_with_a_word(hub, tmp_path, caplog):
    train, val = open_images(write(hub, tmp_path / "x", [0, 1, 1]))
    assert (len(train), len(val), val.split) == (3, 3, "test")
    assert "no split for validation: test is taken" in caplog.text
    assert train.load(1)[1] == 1


def test_what_is_no_labelled_set_is_named(hub, tmp_path):
    with pytest.raises(ValueError, match=r"split train: 1 of 3 images have no class \(number 2 has -1, of 2 classes\)"):
        open_images(write(hub, tmp_path / "a", [0, 1, -1]))
    with pytest.raises(FileNotFoundError, match="has no split val or validation or valid; it has train"):
        open_images(write(hub, tmp_path / "b", [0, 1], splits=("train",)))
    with pytest.raises(ValueError, match=r"one column of class labels, and has 0. Its columns: image \(Image\), label"):
        open_images(write(hub, tmp_path / "c", [0, 1], label=hub.Value("int64")))
    with pytest.raises(FileNotFoundError, match="datasets cannot load it"):
        open_images(f"hfds/{tmp_path / 'none'}")
