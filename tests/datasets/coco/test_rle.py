"""Run lengths are read as pycocotools reads them."""

from __future__ import annotations

import numpy as np
import pytest

from ndpp_dense.datasets.coco.rle import check_counts

coco_mask = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")


@pytest.fixture(scope="module")
def masks():
    """Masks of all densities and shapes, their counts, and their pixels."""
    rng = np.random.default_rng(0)
    made = []
    for share in (0.0, 0.01, 0.5, 0.99, 1.0):
        for _ in range(40):
            mask = (rng.random(rng.integers(1, 40, 2)) < share).astype(np.uint8)
            mask[mask.shape[0] // 2 :, mask.shape[1] // 3 :] = rng.integers(0, 2)
            made.append(mask)
    large = np.zeros((2000, 3000), np.uint8)
    large[7:, 9:2500] = 1
    return [*made, large]


def _counts(mask):
    return coco_mask.encode(np.asfortranarray(mask))["counts"].decode()


def test_sound_counts_and_their_areas(masks):
    sound, objects = check_counts([_counts(mask) for mask in masks], [mask.size for mask in masks])
    assert sound.all()
    assert objects.tolist() == [int(mask.sum()) for mask in masks]


def test_counts_of_another_size_are_not_sound(masks):
    assert not check_counts([_counts(mask) for mask in masks], [mask.size + 1 for mask in masks])[0].any()


def test_a_broken_string_does_not_touch_its_neighbours(masks):
    strings, sizes = [_counts(mask) for mask in masks], [mask.size for mask in masks]
    broken = {3: "", 50: "é", 77: strings[77][:-1] + "o", 120: "~~~", 150: "o" * 20 + "0", 160: strings[160] + "1"}
    for number, text in broken.items():
        strings[number] = text
    sound, objects = check_counts(strings, sizes)
    assert sorted(np.flatnonzero(~sound)) == sorted(broken)
    assert all(objects[number] == 0 for number in broken)
    assert all(objects[number] == mask.sum() for number, mask in enumerate(masks) if number not in broken)


def test_nothing_to_check():
    assert [array.shape for array in check_counts([], [])] == [(0,), (0,)]
