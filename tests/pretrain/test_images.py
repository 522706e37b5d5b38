"""Images are found in folders and tar files alike, and what is wrong with them is said."""

import tarfile

import numpy as np
import pytest

from ndpp_dense.pretrain.images import open_images


def pack(tree, path, prefix=""):
    with tarfile.open(path, "w") as tar:
        tar.add(tree, arcname=prefix or ".")
    return path


def test_a_folder_is_read(tree):
    train, val = open_images(tree, num_classes=2)
    assert train.classes == val.classes == ("n01", "n02")
    assert (len(train), len(val)) == (24, 10)
    assert np.bincount(train.targets).tolist() == [12, 12]
    image, target = train.load(0)
    assert (image.mode, image.size, target) == ("RGB", (32, 32), 0)


def test_validation_has_another_name(own_tree):
    (own_tree / "val").rename(own_tree / "validation")
    assert len(open_images(own_tree)[1]) == 10


@pytest.mark.parametrize("prefix", ["", "imagenet"])
def test_a_tar_file_is_read_like_the_folder(tree, tmp_path, prefix):
    for packed, loose in zip(open_images(pack(tree, tmp_path / "x.tar", prefix)), open_images(tree), strict=True):
        assert packed.classes == loose.classes
        assert [n.decode().rpartition("/")[2] for n in packed.names] == [
            n.decode().rpartition("/")[2] for n in loose.names
        ]
        for index in range(len(loose)):
            (image, target), (other, other_target) = packed.load(index), loose.load(index)
            assert target == other_target
            assert np.array_equal(np.asarray(image), np.asarray(other))


def test_tar_files_of_classes_within_a_tar_file(tree, tmp_path):
    outer = tmp_path / "outer.tar"
    with tarfile.open(outer, "w") as tar:
        for split in ("train", "val"):
            for folder in sorted((tree / split).iterdir()):
                inner = tmp_path / "inner.tar"
                with tarfile.open(inner, "w") as class_tar:
                    for file in sorted(folder.iterdir()):
                        class_tar.add(file, arcname=file.name)
                tar.add(inner, arcname=f"{split}/{folder.name}.tar")
    packed, loose = open_images(outer)[0], open_images(tree)[0]
    assert packed.classes == loose.classes
    for index in (0, 23):
        assert np.array_equal(np.asarray(packed.load(index)[0]), np.asarray(loose.load(index)[0]))


def test_missing_data_say_what_is_expected(tmp_path, own_tree):
    with pytest.raises(FileNotFoundError, match="train/CLASS/IMAGE"):
        open_images(tmp_path / "nowhere")
    (own_tree / "val").rename(own_tree / "evaluation")
    with pytest.raises(FileNotFoundError, match="no folder val or validation.*it holds evaluation, train"):
        open_images(own_tree)
    with pytest.raises(FileNotFoundError, match="no val images"):
        open_images(pack(own_tree, tmp_path / "x.tar"))


def test_classes_must_agree(own_tree, tree, tmp_path):
    (own_tree / "val" / "n02").rename(own_tree / "val" / "n03")
    for data in (own_tree, pack(own_tree, tmp_path / "x.tar")):
        with pytest.raises(ValueError, match="in train only: n02; in val only: n03"):
            open_images(data)
    with pytest.raises(ValueError, match="num_classes = 3, but .* has 2 classes"):
        open_images(tree, num_classes=3)


def test_an_unreadable_image_is_named(own_tree, tmp_path):
    broken = own_tree / "train" / "n01" / "n01_0.png"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot read image .*n01_0.png"):
        open_images(own_tree)[0].load(0)
    with pytest.raises(ValueError, match="cannot read image .*x.tar/train/n01/n01_0.png"):
        open_images(pack(own_tree, tmp_path / "x.tar"))[0].load(0)


def test_files_that_are_no_tree(tmp_path, own_tree):
    text = tmp_path / "notes.tar"
    text.write_text("no tar file")
    with pytest.raises(ValueError, match="cannot read .*notes.tar"):
        open_images(text)
    with pytest.raises(ValueError, match="does not end in .tar"):
        open_images(own_tree / "train" / "n01" / "n01_0.png")
    (own_tree / "train" / "n01" / "n01_0.png").rename(own_tree / "train" / "loose.png")
    with pytest.raises(ValueError, match="loose.png is in no class folder"):
        open_images(own_tree)
