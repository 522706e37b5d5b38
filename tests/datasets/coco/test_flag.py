from __future__ import annotations

from pathlib import Path

import pytest

from ndpp_dense.datasets.coco import CocoSource, parse_dataset_flag


def test_flag():
    source = parse_dataset_flag("cells_train=/data/train.json:/data/images")
    assert source == CocoSource("cells_train", Path("/data/train.json"), Path("/data/images"))
    assert parse_dataset_flag("a_val=~/x.json:i").json == Path.home() / "x.json"


def test_flag_with_colons_in_paths(tmp_path):
    source = parse_dataset_flag(r"c_val=C:\data\val.json:D:\data\images")
    assert (str(source.json), str(source.images)) == (r"C:\data\val.json", r"D:\data\images")
    source = parse_dataset_flag("c_val=/run/12:30/val.json:/run/12:30/images")
    assert (str(source.json), str(source.images)) == ("/run/12:30/val.json", "/run/12:30/images")
    existing = tmp_path / "a:b"
    existing.touch()
    assert parse_dataset_flag(f"c_val={existing}:x:y").json == existing
    with pytest.raises(ValueError, match="3 colons could separate"):
        parse_dataset_flag("c_val=a:b:c:d")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("/data/train.json:/data/images", "no data set name"),
        ("=/data/train.json:/data/images", "no data set name"),
        ("cells=/a.json:/b", "must end in '_train' or '_val'.*'cells_train'"),
        ("_val=/a.json:/b", "must end in"),
        ("cells_val=/a.json", "annotation file and an image folder"),
        ("cells_val=/a.json:", "annotation file and an image folder"),
        ("cells_val=:/b", "annotation file and an image folder"),
    ],
)
def test_bad_flags(flag, message):
    with pytest.raises(ValueError, match=message):
        parse_dataset_flag(flag)


@pytest.mark.parametrize("path", ["nowhere/data.yaml", "nowhere/voc"])
def test_a_path_that_is_not_there_is_said_not_to_be(path):
    with pytest.raises(ValueError, match=f"there is no file or folder '{path}'"):
        parse_dataset_flag(f"pets_train={path}")
