"""Every fault is named, with the set, the file, the count and the ids."""

from __future__ import annotations

import pytest

from ndpp_dense.datasets.coco import validate_coco

POLYGON = [[1.0, 1.0, 5.0, 1.0, 5.0, 5.0]]
RLE = {"size": [10, 10], "counts": "0T3"}

FAULTS = {
    "top level is a list": (lambda d: [d], r"top level is a list"),
    "section missing": (lambda d: d.pop("annotations") and d, r"no list under annotations; keys found"),
    "no images": (lambda d: {**d, "images": []}, r"'images' is empty"),
    "no annotations": (lambda d: {**d, "annotations": []}, r"'annotations' is empty"),
    "no categories": (lambda d: {**d, "categories": []}, r"'categories' is empty"),
    "entry without key": (lambda d: d["annotations"][1].pop("bbox") and d, r"1 of 2 entries .* no 'bbox'; .*: 1\)"),
    "unknown image": (lambda d: d["annotations"][1].update(image_id=9) or d, r"1 annotations .*image_id.*\(9\).*: 2\)"),
    "unknown category": (lambda d: d["annotations"][0].update(category_id=5) or d, r"category_id.*\(5\).*: 1\)"),
    "flat box": (lambda d: d["annotations"][1].update(bbox=[1, 1, 0, 4]) or d, r"1 of 2 .*positive .*ids: 2\)"),
    "box of text": (lambda d: d["annotations"][1].update(bbox=["a", 1, 1, 4]) or d, r"ids: 2\)"),
    "box with nan": (lambda d: d["annotations"][1].update(bbox=[1, 1, float("nan"), 4]) or d, r"ids: 2\)"),
    "box of three": (lambda d: d["annotations"][1].update(bbox=[1, 1, 4]) or d, r"ids: 2\)"),
    "id twice": (lambda d: d["annotations"][1].update(id=1) or d, r"1 ids under 'annotations' occur twice.*: 1\)"),
    "area missing": (lambda d: d["annotations"][1].pop("area") and d, r"no 'area', which COCO evaluation reads"),
}

NAN, INF = float("nan"), float("inf")
BIG = [[1.0, 1.0, 1e9, 1.0, 5.0, 5.0]]


def _second(**changes):
    """Changes the second annotation; None takes a key away."""

    def spoil(document):
        entry = document["annotations"][1]
        entry.update(changes)
        for key in [key for key, value in changes.items() if value is None]:
            del entry[key]
        return document

    return spoil


def _rle(size, counts):
    return _second(segmentation={"size": size, "counts": counts})


def _image(**changes):
    return lambda d: d["images"][1].update(changes) or d


def _all(**changes):
    return lambda d: [entry.update(changes) for entry in d["annotations"]] and d


def _keypoints(points, **changes):
    """Gives the category three keypoints, and the second annotation some."""

    def spoil(document):
        document["categories"][1]["keypoints"] = ["head", "hand", "foot"]
        document["annotations"][1].update(keypoints=points, **changes)
        return document

    return spoil


GOOD = [1, 2, 2, 3, 4, 1, 0, 0, 0]
FAULTS |= {
    "keypoints too few": (_keypoints(GOOD[:6]), r"1 of 2 .*as many as their category names.*: 2\)"),
    "keypoints too many": (_keypoints([*GOOD, 1, 2, 2]), r"as many as their category names"),
    "keypoints without v": (_keypoints([1, 2, 3, 4]), r"not \[x, y, v, ...\]"),
    "keypoints are no list": (_keypoints({"head": 1}), r"not \[x, y, v, ...\]"),
    "keypoint seen too well": (_keypoints([*GOOD[:8], 3]), r"third number is not 0 .*: 2\)"),
    "keypoint of text": (_keypoints([*GOOD[:7], "4", 0]), r"other things than finite numbers"),
    "keypoint nan": (_keypoints([float("nan"), *GOOD[1:]]), r"other things than finite numbers"),
    "keypoints counted wrong": (_keypoints(GOOD, num_keypoints=3), r"'num_keypoints' is not the number .*: 2\)"),
    "escape in a category": (lambda d: d["categories"][0].update(name="\x1b[31mred") or d, r"printed: '\\x1b\[31mred'"),
    "half a character": (lambda d: d["categories"][1].update(name="\ud800") or d, r"printed: '\\ud800'"),
    "line feed in a file name": (lambda d: d["images"][1].update(file_name="2.png\nok") or d, r"'2.png\\nok'"),
    "turned writing": (lambda d: d["images"][0].update(file_name="\u202egnp.1") or d, r"'\\u202egnp.1'"),
}

NO_WHOLE = r"'{}' that is not a whole number .*: {}"
FAULTS |= {
    "id is a text": (_second(id="a-1"), NO_WHOLE.format("id", "'a-1'")),
    "id is a float": (_second(id=2.0), NO_WHOLE.format("id", r"2\.0")),
    "id is true": (_second(id=True), NO_WHOLE.format("id", "True")),
    "id is a list": (_second(id=[2]), NO_WHOLE.format("id", r"\[2\]")),
    "id is null": (lambda d: d["annotations"][1].update(id=None) or d, NO_WHOLE.format("id", "None")),
    "id is enormous": (_second(id=2**60), NO_WHOLE.format("id", str(2**60))),
    "image id is a text": (_image(id="2"), NO_WHOLE.format("id", "'2'")),
    "image_id is a list": (_second(image_id=[2]), NO_WHOLE.format("image_id", r"\[2\]")),
    "image_id is a text": (_second(image_id="2"), NO_WHOLE.format("image_id", "'2'")),
    "category_id is a float": (_second(category_id=3.0), NO_WHOLE.format("category_id", r"3\.0")),
    "category without name": (lambda d: d["categories"][0].update(name="") or d, "'name' that is not a text"),
    "category name is a number": (
        lambda d: d["categories"][0].update(name=7) or d,
        "'name' that is not a text .*printed: 7",
    ),
    "category name twice": (lambda d: d["categories"][0].update(name="debris") or d, "2 categories share a name"),
    "height is null": (_image(height=None), "'height' that is not a whole number of pixels above 0: None"),
    "height is 0": (_image(height=0), "'height' that is not a whole number of pixels above 0: 0"),
    "width is a float": (_image(width=10.0), r"'width' that is not a whole number of pixels above 0: 10\.0"),
    "width is a text": (_image(width="10"), "'width' that is not a whole number of pixels above 0: '10'"),
    "file_name is a number": (_image(file_name=2), "'file_name' that is not a text .*printed: 2"),
    "file_name with a zero": (_image(file_name="2\0.png"), "'file_name' that is not a text"),
    "iscrowd is a text": (_second(iscrowd="0"), "'iscrowd' that is not 0 or 1: '0'"),
    "iscrowd is 2": (_second(iscrowd=2), "'iscrowd' that is not 0 or 1: 2"),
    "ignore": (_second(ignore=1), "'ignore' that is not 0: mark what to ignore by iscrowd 1: 1"),
    "area is a text": (_second(area="16"), r"1 of 2 annotations have an 'area' .*ids: 2\)"),
    "area is negative": (_second(area=-16), r"1 of 2 annotations have an 'area' .*ids: 2\)"),
    "area is nan": (_second(area=NAN), r"1 of 2 annotations have an 'area' .*ids: 2\)"),
    "area is enormous": (_second(area=10**400), r"1 of 2 annotations have an 'area' .*ids: 2\)"),
    "only crowds": (_all(iscrowd=1), "all 2 annotations are crowds"),
    "RLE of a crowd without size": (_second(iscrowd=1, segmentation={"counts": [0, 100]}), "is neither a list"),
    "list of runs of a crowd": (_second(iscrowd=1, segmentation={"size": [10, 10], "counts": [1.0]}), "not add up"),
    "no mask": (_second(segmentation=None), r"1 of 2 annotations have no segmentation, .*faster_rcnn_.*MASK_ON False"),
    "empty mask": (_second(segmentation=[]), r"1 of 2 annotations have no segmentation, .*ids: 2\)"),
    "mask is a text": (_second(segmentation="a"), "1 of 2 annotations whose 'segmentation' is neither"),
    "mask is an empty object": (_second(segmentation={}), "1 of 2 annotations whose 'segmentation' is neither"),
    "polygon is flat list": (
        _second(segmentation=[1, 1, 5, 1, 5, 5]),
        "whose 'segmentation' is neither a list of poly",
    ),
    "points as pairs": (
        _second(segmentation=[[[1, 1], [5, 1], [5, 5]]]),
        "fewer than 3 points|other things than finite",
    ),
    "two points": (_second(segmentation=[[1, 1, 5, 5]]), r"fewer than 3 points.*ids: 2\)"),
    "two points beside a whole one": (_second(segmentation=[*POLYGON, [1, 1, 5, 5]]), "fewer than 3 points"),
    "odd coordinates": (_second(segmentation=[[1, 1, 5, 1, 5, 5, 2]]), "odd number of coordinates"),
    "polygon with nan": (_second(segmentation=[[1, 1, 5, NAN, 5, 5]]), r"other things than finite numbers.*ids: 2\)"),
    "polygon with infinity": (_second(segmentation=[[1, 1, 5, INF, 5, 5]]), "other things than finite numbers"),
    "polygon with text": (_second(segmentation=[[1, 1, "5", 1, 5, 5]]), "other things than finite numbers"),
    "polygon with true": (_second(segmentation=[[1, 1, True, 1, 5, 5]]), "other things than finite numbers"),
    "polygon far away": (_second(segmentation=BIG), r"farther from its image than the image is large.*ids: 2\)"),
    "polygon of a huge integer": (_second(segmentation=[[1, 1, 10**400, 1, 5, 5]]), "other things than finite|farther"),
    "flat polygon": (_second(segmentation=[[1, 1, 5, 5, 3, 3]]), r"whose mask has no area.*ids: 2\)"),
    "RLE of swapped size": (
        lambda d: _rle([12, 10], "0X3")(_image(width=12)(d)),
        r"another 'size' than \[height, width\]",
    ),
    "RLE of float size": (_rle([10.0, 10], "0T3"), "another 'size'"),
    "RLE without counts": (_second(segmentation={"size": [10, 10]}), "whose 'segmentation' is neither"),
    "RLE too short": (_rle([10, 10], "0c2"), "'counts' that do not add up"),
    "RLE too long": (_rle([10, 10], "0T4"), "'counts' that do not add up"),
    "RLE that breaks off": (_rle([10, 10], "0T"), "'counts' that do not add up"),
    "RLE of other letters": (_rle([10, 10], "0é~"), "'counts' that do not add up"),
    "RLE of nothing": (_rle([10, 10], ""), "'counts' that do not add up"),
    "RLE without an object": (_rle([10, 10], "T3"), "whose mask has no area"),
    "list of runs too short": (_rle([10, 10], [0, 99]), "'counts' that do not add up"),
    "list of runs with floats": (_rle([10, 10], [0, 100.0]), "'counts' that do not add up"),
    "list of negative runs": (_rle([10, 10], [-10, 110]), "'counts' that do not add up"),
    "list of runs without an object": (_rle([10, 10], [100]), "whose mask has no area"),
    "negative width": (_second(bbox=[5, 1, -4, 4]), r"1 of 2 .*positive .*ids: 2\)"),
    "box of true": (_second(bbox=[1, 1, True, 4]), r"1 of 2 .*positive"),
    "box is a number": (_second(bbox=4), r"1 of 2 .*positive"),
    "box beside its image": (_second(bbox=[20, 20, 4, 4]), r"1 of 2 boxes lie wholly beside their image.*ids: 2\)"),
    "box left of its image": (_second(bbox=[-4, 1, 4, 4]), r"1 of 2 boxes lie wholly beside their image"),
    "boxes in shares": (_all(bbox=[0.1, 0.1, 0.4, 0.4]), r"2 of 2 boxes lie within 1 pixel: .*normalised"),
    "boxes as corners": (_all(bbox=[6, 6, 9, 9], segmentation=RLE), r"2 of 2 boxes fit .* only as corners"),
    "corners of polygons": (
        _all(bbox=[4, 4, 8, 8], segmentation=[[4, 4, 8, 4, 8, 8]]),
        r"2 of 2 boxes fit .* only as corners",
    ),
    "box far beyond": (
        _second(bbox=[1, 1, 100, 4], segmentation=RLE),
        r"1 of 2 boxes reach beyond .* more than its size",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_named(tmp_path, fault, document, write):
    spoil, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message) as raised:
        validate_coco(*write(tmp_path, spoil(document)), name="cells_val", masks=True)
    assert "cells_val" in str(raised.value)
    assert "set.json" in str(raised.value)
