"""WebDataset shards are read by index, as a folder is, so that a run on them resumes exactly."""

import io
import tarfile
from itertools import islice

import numpy as np
import pytest
import torch

from ndpp_dense.pretrain.images import open_images
from ndpp_dense.pretrain.stream import TrainStream, train_batches


def add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def pack(tree, root, name="x-{split}-{number:04}.tar", shards=2, **more):
    """Writes a tree as shards, whose samples have an image, a class number and another fact."""
    for split in ("train", "val"):
        files = sorted((tree / split).rglob("*.png"))
        for number in range(shards):
            path = root / name.format(split=split, number=number)
            path.parent.mkdir(parents=True, exist_ok=True)
            with tarfile.open(path, "w") as tar:
                for index, file in enumerate(files[number::shards]):
                    key = f"{number}/{index:05}"
                    label = b"0" if file.parent.name == "n01" else b"1\n"
                    add(tar, f"{key}.png", file.read_bytes())
                    add(tar, f"{key}.cls", more.get("label", label))
                    add(tar, f"{key}.json", b"{}")
    return f"wds/{root}"


@pytest.mark.parametrize("name", ["x-{split}-{number:04}.tar", "{split}/{number}.tar", "im_{split}{number}.tar"])
def test_shards_are_read_like_the_folder(tree, tmp_path, name):
    (packed, val), (loose, _) = open_images(pack(tree, tmp_path, name)), open_images(tree)
    assert packed.classes == val.classes == ("0", "1")
    assert (len(packed), len(val)) == (24, 10)
    assert np.bincount(packed.targets).tolist() == [12, 12]
    pixels = {np.asarray(loose.load(index)[0]).tobytes(): loose.load(index)[1] for index in range(24)}
    found = [packed.load(index) for index in range(24)]
    assert {np.asarray(image).tobytes(): target for image, target in found} == pixels
    assert packed.where(0).endswith(("-0000.tar/0/00000.png", "0.tar/0/00000.png"))


def test_a_run_on_shards_goes_on_where_it_stopped(tree, tmp_path, tiny):
    images, config = open_images(pack(tree, tmp_path))[0], tiny()

    def take(start, count, workers=0):
        stream = TrainStream(images, config, seed=3, start=start)
        return list(islice(train_batches(stream, config, torch.device("cpu"), workers=workers), count))

    whole = take(0, 5)
    for (a, b), (c, d) in zip(whole[2:], take(2, 3, workers=1), strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


@pytest.mark.parametrize(
    ("label", "message"),
    [(b"cat", r"0/00000.cls holds b'cat', not a class number"), (b"-1", "holds b'-1'"), (b"", "holds b''")],
)
def test_labels_that_are_none_are_named(tree, tmp_path, label, message):
    data = pack(tree, tmp_path, label=label)
    with pytest.raises(ValueError, match=rf"x-train-0000.tar.*{message}"):
        open_images(data)


def test_samples_and_shards_that_are_not_whole_are_named(tree, tmp_path):
    data, shard = pack(tree, tmp_path, shards=1), tmp_path / "x-train-0000.tar"
    whole = shard.read_bytes()
    for name, words in (("lone.png", "1 images and no class number"), ("0/00000.jpg", "2 images and a class number")):
        shard.write_bytes(whole)
        with tarfile.open(shard, "a") as tar:
            add(tar, name, b"x")
        with pytest.raises(ValueError, match=rf"x-train-0000.tar: sample '{name.partition('.')[0]}' has {words}"):
            open_images(data)
    shard.write_bytes(whole[:2000])
    with pytest.raises(ValueError, match=r"cannot read .*x-train-0000.tar as a shard of images"):
        open_images(data)
    with tarfile.open(shard, "w"):
        pass
    with pytest.raises(ValueError, match=r"1 shard\(s\), first x-train-0000.tar, hold no images"):
        open_images(data)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"no .tar file with train or training in its path; it holds x-val"):
        open_images(data)


def test_classes_are_counted_over_both_sets(tree, tmp_path):
    data = pack(tree, tmp_path)
    with pytest.raises(ValueError, match="num_classes = 3, but .* has 2 classes"):
        open_images(data, num_classes=3)


@pytest.mark.parametrize("data", ["hfids/org/name", "tfds/imagenet2012", "torch/cifar10", "HFIDS/x"])
def test_streams_are_refused_with_what_to_give(data):
    with pytest.raises(ValueError, match=r"stream without an order.*resumed exactly\. Give a folder .*wds/.*hfds/"):
        open_images(data)


def test_a_folder_of_that_name_is_a_folder(own_tree, tmp_path, monkeypatch):
    (tmp_path / "wds").mkdir()
    own_tree.rename(tmp_path / "wds" / "own")
    monkeypatch.chdir(tmp_path)
    assert len(open_images("wds/own")[0]) == 24
    with pytest.raises(FileNotFoundError, match="no folder of shards at nowhere"):
        open_images("wds/nowhere")
    with pytest.raises(FileNotFoundError, match="no images at nowhere/x: give a folder.*hfds/NAME"):
        open_images("nowhere/x")
