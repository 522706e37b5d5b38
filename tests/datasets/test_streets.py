"""The street set must be in Cityscapes' layout, complete, repeatable, and hold every class."""

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
pytest.importorskip("filelock", reason="filelock is not installed")

from ndpp_dense.datasets.streets import ensure_streets  # noqa: E402
from ndpp_dense.datasets.streets_scene import IGNORE, TRAIN_IDS, draw_street  # noqa: E402

SMALL = {"num_train": 3, "num_val": 2, "height": 48}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return ensure_streets(tmp_path_factory.mktemp("data"), **SMALL)


def read(made, split):
    images = sorted((made / "leftImg8bit" / split / "demo").glob("*_leftImg8bit.png"))
    names = [image.name.replace("leftImg8bit", "gtFine_labelTrainIds") for image in images]
    labels = [made / "gtFine" / split / "demo" / name for name in names]
    return [(np.asarray(Image.open(a)), np.asarray(Image.open(b))) for a, b in zip(images, labels, strict=True)]


def test_layout_and_labels(made):
    for split, count in (("train", 3), ("val", 2)):
        pairs = read(made, split)
        assert len(pairs) == count
        for image, labels in pairs:
            assert (image.shape, image.dtype) == ((48, 96, 3), np.uint8)
            assert (labels.shape, labels.dtype) == ((48, 96), np.uint8)
            assert set(np.unique(labels)) <= {*TRAIN_IDS.values(), IGNORE}


def test_the_same_arguments_give_the_same_pixels_and_splits_differ(made, tmp_path):
    again = ensure_streets(tmp_path, **SMALL)
    for split in ("train", "val"):
        for (image, labels), (other, others) in zip(read(made, split), read(again, split), strict=True):
            assert np.array_equal(image, other)
            assert np.array_equal(labels, others)
    assert not np.array_equal(read(made, "train")[0][0], read(made, "val")[0][0])
    assert ensure_streets(tmp_path, **SMALL) == again
    assert ensure_streets(tmp_path, **{**SMALL, "seed": 1}) != again


def test_every_class_is_there_and_none_rules():
    streets = [draw_street(64, np.random.default_rng(seed)) for seed in range(20)]
    shares = np.bincount(np.concatenate([s.labels.ravel() for s in streets]), minlength=256) / (20 * 64 * 128)
    assert all(shares[index] > 0.005 for index in TRAIN_IDS.values())
    assert shares.max() < 0.4


def test_image_and_labels_show_the_same_shapes():
    """Pixels of one class vary less than pixels of all."""
    street = draw_street(64, np.random.default_rng(0))
    values = street.image.astype(float)
    within = [values[street.labels == index].var(0).sum() for index in (TRAIN_IDS["sky"], TRAIN_IDS["road"])]
    assert max(within) < 0.5 * values.reshape(-1, 3).var(0).sum()


def test_bad_arguments_are_reported_together(tmp_path):
    with pytest.raises(ValueError, match=r"num_val=0 .*height=8 "):
        ensure_streets(tmp_path, num_val=0, height=8)
