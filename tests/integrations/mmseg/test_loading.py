"""Images and labels are read as everywhere, or named."""

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.mmseg

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)


def load_image(path, **options):
    from ndpp_dense.integrations.mmseg import LoadCheckedImage

    return LoadCheckedImage(**options).transform({"img_path": str(path)})


def load_labels(path, **facts):
    from ndpp_dense.integrations.mmseg import LoadCheckedLabels

    results = {"seg_map_path": str(path), "seg_fields": [], "reduce_zero_label": False, "label_map": None, **facts}
    return LoadCheckedLabels().transform(results)["gt_seg_map"]


def mmseg_labels(path, **facts):
    from mmseg.datasets.transforms import LoadAnnotations

    results = {"seg_map_path": str(path), "seg_fields": [], "reduce_zero_label": False, "label_map": None, **facts}
    return LoadAnnotations().transform(results)["gt_seg_map"]


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_images_of_eight_bits_are_what_mmcv_reads(tmp_path, suffix):
    from mmcv.transforms import LoadImageFromFile

    path = tmp_path / f"a.{suffix}"
    Image.fromarray(PIXELS).save(path)
    ours, theirs = load_image(path), LoadImageFromFile().transform({"img_path": str(path)})
    assert ours.keys() == theirs.keys()
    assert np.abs(ours["img"].astype(int) - theirs["img"]).max() <= (0 if suffix == "png" else 2)
    assert ours["ori_shape"] == theirs["ori_shape"] == (8, 12)


def test_sixteen_bits_are_what_eight_are(tmp_path):
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / "a.png")
    Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257).save(tmp_path / "b.png")
    assert np.array_equal(load_image(tmp_path / "a.png")["img"], load_image(tmp_path / "b.png")["img"])


def test_damaged_and_missing_files_are_named(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ValueError, match=r"cannot read image .*a\.jpg: the file is empty"):
        load_image(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"cannot read labels .*a\.jpg: the file is empty"):
        load_labels(tmp_path / "a.jpg")
    with pytest.raises(FileNotFoundError, match=r"b\.jpg"):
        load_image(tmp_path / "b.jpg")


def test_too_thin_an_image_is_named(tmp_path):
    Image.new("RGB", (2000, 2)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: 2000 x 2 pixels are too thin: resized to 240 x 180"):
        load_image(tmp_path / "a.png", scale=(240, 180))
    load_image(tmp_path / "a.png", scale=(2048, 1024))


@pytest.mark.parametrize("facts", [{}, {"reduce_zero_label": True}, {"label_map": {0: 255, 1: 0, 2: 1, 3: 255}}])
def test_good_labels_are_what_mmseg_reads(tmp_path, facts):
    labels = np.array([[0, 1, 2], [3, 254, 255]], np.uint8)
    for name, image in (("a.png", Image.fromarray(labels)), ("b.png", Image.fromarray(labels).convert("P"))):
        image.save(tmp_path / name)
        assert np.array_equal(load_labels(tmp_path / name, **facts), mmseg_labels(tmp_path / name, **facts))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_numbers_beyond_eight_bits_are_not_cast(tmp_path, dtype):
    Image.fromarray(np.array([[3, 259]], dtype)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif holds the labels 259; they must be 0 to 255"):
        load_labels(tmp_path / "a.tif")


def test_colours_are_no_labels(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: it has 3 channels \(mode RGB\); labels must be one channel"):
        load_labels(tmp_path / "a.png")
