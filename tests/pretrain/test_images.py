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


def test_hidden_folders_are_no_classes_and_other_files_are_counted(own_tree, tmp_path, caplog):
    hidden = own_tree / "train" / ".ipynb_checkpoints"
    hidden.mkdir()
    (own_tree / "train" / "n01" / "n01_0.png").rename(hidden / "n01_0-checkpoint.png")
    (own_tree / "train" / "n01" / "._n01_1.png").write_bytes(b"\0\5\x16\7")
    (own_tree / "train" / "n02" / "n02_0.png").rename(own_tree / "train" / "n02" / "n02_0.gif")
    for data in (own_tree, pack(own_tree, tmp_path / "x.tar")):
        caplog.clear()
        train, val = open_images(data)
        assert train.classes == val.classes == ("n01", "n02")
        assert (len(train), len(val)) == (22, 10)
        assert "1 that do not end as images do (.gif 1; first: " in caplog.text
        assert "2 hidden (" in caplog.text


def test_links_in_a_tar_file_stand_for_what_they_name(tree, tmp_path):
    path = tmp_path / "links.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(tree, arcname=".")
        for kind, name, target in (
            (tarfile.LNKTYPE, "train/n01/hard.png", "./train/n01/n01_0.png"),
            (tarfile.SYMTYPE, "train/n01/soft.png", "../n02/n02_3.png"),
            (tarfile.SYMTYPE, "train/n01/far.png", "soft.png"),
            (tarfile.SYMTYPE, "val/n01/gone.png", "/etc/passwd"),
            (tarfile.SYMTYPE, "val/n01/out.png", "../../../../x.png"),
            (tarfile.SYMTYPE, "val/n01/round.png", "round.png"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    train, val = open_images(path)
    assert (len(train), len(val)) == (27, 10)
    names = [name.decode() for name in train.names]
    for link, target in (("hard", "n01/n01_0"), ("soft", "n02/n02_3"), ("far", "n02/n02_3")):
        linked, original = names.index(f"train/n01/{link}.png"), names.index(f"train/{target}.png")
        assert np.array_equal(np.asarray(train.load(linked)[0]), np.asarray(train.load(original)[0]))


def test_what_leads_nowhere_and_lies_elsewhere_is_counted(own_tree, tmp_path, caplog):
    (own_tree / "train" / "n01" / "gone.png").symlink_to("nowhere.png")
    (own_tree / "test").mkdir()
    (own_tree / "val" / "n01" / "n01_0.png").rename(own_tree / "test" / "a.png")
    open_images(pack(own_tree, tmp_path / "x.tar"))
    assert "1 that are no files or links to nothing (train/n01/gone.png)" in caplog.text
    assert "1 images in no class folder of train or val (first: test/a.png)" in caplog.text


def test_of_two_members_of_one_name_the_last_counts(tree, tmp_path):
    path = pack(tree, tmp_path / "x.tar")
    with tarfile.open(path, "a") as tar:
        tar.add(tree / "train" / "n02" / "n02_5.png", arcname="train/n01/n01_0.png")
    train = open_images(path)[0]
    assert len(train) == 24
    assert np.array_equal(np.asarray(train.load(0)[0]), np.asarray(open_images(tree)[0].load(12 + 5)[0]))


def test_a_tar_file_that_is_not_whole_is_refused(tree, tmp_path):
    path = pack(tree, tmp_path / "x.tar")
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        middle = [info.offset for info in tar if info.isfile()][20]
    damaged = bytearray(data)
    damaged[middle + 10] ^= 0xFF
    for spoiled, message in (
        (data[: middle + 700], "(empty header|unexpected end of data)"),
        (data[:middle], "breaks off"),
        (bytes(damaged), f"begins at byte {middle}"),
        (data + data, "second tar file"),
    ):
        path.write_bytes(spoiled)
        with pytest.raises(ValueError, match=rf"cannot read .*x\.tar as a tar file of images: .*{message}"):
            open_images(path)


def test_a_set_without_images_says_what_it_holds(own_tree, tmp_path):
    for folder in (own_tree / "val").iterdir():
        for file in folder.iterdir():
            file.rename(file.with_suffix(".gif"))
    with pytest.raises(ValueError, match=r"val holds no image that ends in .* \(it holds 10 that do not end as images"):
        open_images(own_tree)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(own_tree / "val", arcname="val")
    with pytest.raises(ValueError, match=r"x\.tar .* it holds no images \(it holds 10 that do not end"):
        open_images(tmp_path / "x.tar")


def test_deep_images_are_not_clipped(own_tree):
    from PIL import Image

    file = own_tree / "train" / "n01" / "n01_0.png"
    Image.fromarray(np.full((32, 32), 100 * 257, np.uint16)).save(file)
    assert np.unique(np.asarray(open_images(own_tree)[0].load(0)[0])).tolist() == [100]


def test_too_thin_an_image_is_named(own_tree):
    from PIL import Image

    Image.new("RGB", (4001, 20)).save(own_tree / "train" / "n01" / "n01_0.png")
    with pytest.raises(ValueError, match=r"n01_0\.png: 4001 x 20 pixels are too thin"):
        open_images(own_tree)[0].load(0)
