"""Settings that fit a set, from sizes that are known."""

import pytest

from ndpp_dense.datasets.coco.sizes import Fit, measure_sizes

COCO = Fit(
    short_side=800, long_side=1333, anchors=[[32], [64], [128], [256], [512]], detections=100, batch=16, steps=90000
)


def document(sides, objects, count=10, each=3):
    images = [{"id": i, "height": sides[0], "width": sides[1]} for i in range(count)]
    boxes = [{"image_id": i % count, "bbox": [0, 0, *objects]} for i in range(count * each)]
    return {"images": images, "annotations": [*boxes, {"image_id": 0, "bbox": [0, 0, 1, 1], "iscrowd": 1}]}


def test_sizes_are_those_of_boxes_and_images():
    sizes = measure_sizes(document((200, 300), (10, 40)))
    assert (sizes.images, sizes.short_side, sizes.long_side, sizes.most_objects) == (10, 200, 300, 3)
    assert sizes.object_sides == pytest.approx((0.1, 0.1, 0.1))


@pytest.mark.parametrize(("side", "first"), [(2, 8), (3, 8), (4, 16), (1, 4), (0.1, 4)])
def test_anchors_begin_below_the_smallest_objects(side, first):
    fitted = measure_sizes(document((200, 300), (side, side))).fit(COCO)
    assert fitted["anchors"][0] == [[first << level] for level in range(5)]


def test_what_fits_is_not_proposed():
    fitted = measure_sizes(document((200, 300), (50, 50), count=100000, each=1)).fit(COCO)
    assert fitted == {}


def test_long_images_are_resized_by_their_long_side():
    wide = measure_sizes(document((100, 1333), (4, 4))).fit(COCO)
    assert wide["anchors"][0][0] == [4]  # at the short side's size they would be 32


@pytest.mark.parametrize(("count", "steps"), [(10, 500), (5000, 24 * 313)])
def test_few_images_make_a_short_run(count, steps):
    fitted = measure_sizes(document((200, 300), (50, 50), count=count, each=1)).fit(COCO)
    assert fitted["steps"][0] == steps


def test_crowded_images_need_more_detections():
    fitted = measure_sizes(document((200, 300), (50, 50), count=2, each=140)).fit(COCO)
    assert fitted["detections"] == (200, "an image has 140 objects")
