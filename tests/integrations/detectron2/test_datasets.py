from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: ndpp install-detectron2")
pytest.importorskip("sklearn", reason="sklearn is not installed")

from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.evaluation import COCOEvaluator

from ndpp_dense.datasets import CocoSource, ensure_digits
from ndpp_dense.integrations.detectron2 import datasets
from ndpp_dense.integrations.detectron2.datasets import check_available, register_coco, register_demo

pytestmark = pytest.mark.detectron2


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return ensure_digits(tmp_path_factory.mktemp("data"), num_train=3, num_val=2, size=64)


@pytest.fixture
def small_demo(monkeypatch, made):
    """Lets the demo be a set of five images: the real one takes seconds to generate."""
    calls = []

    def ensure(root):
        calls.append(root)
        return ensure_digits(root, num_train=3, num_val=2, size=64)

    monkeypatch.setattr(datasets, "ensure_digits", ensure)
    monkeypatch.setattr(datasets, "locate_digits", lambda: made)
    return calls


def test_registered_set_loads_and_tells_its_masks(made):
    summary = register_coco(CocoSource("cells_train", made.train_json, made.train_images))
    assert (summary.num_images, summary.mask_format) == (3, "bitmask")
    records = get_detection_dataset_dicts("cells_train")
    assert len(records) == 3
    assert Path(records[0]["file_name"]).is_file()
    assert MetadataCatalog.get("cells_train").thing_classes == ["0", "1", "2", "3", "4"]


def test_same_paths_again_change_nothing_and_other_paths_are_refused(made, monkeypatch):
    source = CocoSource("cells_val", made.val_json, made.val_images)
    register_coco(source)
    monkeypatch.chdir(made.root)
    register_coco(CocoSource("cells_val", Path("val.json"), Path("val")))
    with pytest.raises(ValueError, match=r"'cells_val' is registered already, with .*val\.json.*got .*train\.json"):
        register_coco(CocoSource("cells_val", made.train_json, made.train_images))


def test_builtin_names_are_taken(made):
    with pytest.raises(ValueError, match="'coco_2017_val' is registered already"):
        register_coco(CocoSource("coco_2017_val", made.val_json, made.val_images))


def test_faulty_set_is_not_registered(made, tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="line 1"):
        register_coco(CocoSource("cells_val", broken, made.val_images))
    assert "cells_val" not in DatasetCatalog.list()


def test_demo_is_generated_only_when_asked_for(small_demo, made):
    register_demo()
    register_demo()
    assert small_demo == []
    assert len(DatasetCatalog.get("digits_train")) == 3
    assert len(DatasetCatalog.get("digits_val")) == 2
    assert small_demo == [made.root.parent] * 2
    evaluator = COCOEvaluator("digits_val", tasks=("bbox", "segm"), distributed=False, use_fast_impl=False)
    assert evaluator is not None


def test_demo_metadata_agrees_with_what_loading_finds(small_demo):
    register_demo()
    announced = list(MetadataCatalog.get("digits_val").thing_classes)
    DatasetCatalog.get("digits_val")
    assert MetadataCatalog.get("digits_val").thing_classes == announced


def test_demo_paths_are_those_of_the_default_set(monkeypatch, tmp_path):
    monkeypatch.setenv("NDPP_HOME", str(tmp_path))
    register_demo()
    folder = Path(MetadataCatalog.get("digits_val").image_root)
    assert folder.parents[1] == tmp_path / "datasets"
    assert not folder.exists()


def test_available_sets_pass(small_demo, made):
    register_demo()
    register_coco(CocoSource("cells_val", made.val_json, made.val_images))
    check_available(("digits_train", "digits_val", "cells_val"))
    assert small_demo


def test_unknown_name_offers_the_nearest_and_the_flag(small_demo):
    register_demo()
    with pytest.raises(ValueError, match="'digit_train' is not registered") as raised:
        check_available(["digit_train"])
    message = str(raised.value)
    assert "Did you mean 'digits_train'" in message
    assert "Ready to use: digits_train, digits_val." in message
    assert re.search(r"without files here: \d+ of [^.]*coco_2017_val", message)
    assert "--dataset NAME=JSON:IMAGES" in message


@pytest.mark.parametrize(("value", "said"), [("/nowhere", "is '/nowhere'"), (None, "is not set, so")])
def test_absent_builtin_tells_path_variable_and_ways(monkeypatch, tmp_path, value, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    if value:
        monkeypatch.setenv("DETECTRON2_DATASETS", value)
    with pytest.raises(FileNotFoundError, match=f"DETECTRON2_DATASETS {said}") as raised:
        check_available(["coco_2017_val"])
    message = str(raised.value)
    assert "instances_val2017.json" in message
    assert "--dataset NAME=JSON:IMAGES" in message
    assert "the demo" in message


def test_removed_files_are_noticed(made, tmp_path):
    copy = tmp_path / "val.json"
    copy.write_text(made.val_json.read_text(encoding="utf-8"), encoding="utf-8")
    register_coco(CocoSource("cells_val", copy, made.val_images))
    copy.unlink()
    with pytest.raises(FileNotFoundError, match=r"'cells_val': not found: .*val\.json"):
        check_available(["cells_val"])


_RANK = """
import json
from detectron2.data import DatasetCatalog
from ndpp_dense.integrations.detectron2.datasets import register_demo
register_demo()
print(json.dumps([len(DatasetCatalog.get(name)) for name in ("digits_train", "digits_val")]))
"""


def test_two_ranks_start_on_an_empty_cache_with_the_real_demo(tmp_path):
    root = Path(__file__).parents[3]
    environment = {**os.environ, "NDPP_HOME": str(tmp_path), "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", _RANK]
    ranks = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        for rank in ranks:
            out, err = rank.communicate(timeout=200)
            assert rank.returncode == 0, err
            assert json.loads(out) == [400, 100]
    finally:
        for rank in ranks:
            rank.kill()
    assert len([p for p in (tmp_path / "datasets").iterdir() if p.is_dir()]) == 1


def registered(name, document, folder, **metadata):
    from detectron2.data.datasets import register_coco_instances

    path = folder / f"{name}.json"
    path.write_text(json.dumps(document))
    register_coco_instances(name, metadata, str(path), str(folder))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda d: d["annotations"][0].update(bbox=[1, 1, 0, -4]), "own_b .*1 of 4 annotations have a 'bbox'"),
        (lambda d: d["annotations"][1].update(category_id=9), r"own_b .*category_id.*\(9\)"),
        (lambda d: d["annotations"][1].pop("area"), "own_b .*no 'area', which COCO evaluation reads"),
        (lambda d: d["annotations"][1].update(segmentation=[[1, 2]]), "own_b .*a polygon of fewer than 3 points"),
        (lambda d: d["images"][0].update(file_name="lost.png"), "own_b: 1 of 2 images are not in"),
        (lambda d: d["categories"][0].update(name="disc"), "'own_b' is registered with the categories cell, debris"),
        (lambda d: d["images"][0].update(height=900_000), "own_b: image 0.png: .*900000"),
    ],
)
def test_sets_that_users_register_are_checked_as_ours_are(tmp_path, harm, message):
    from detectron2.config import get_cfg

    from ndpp_dense.integrations.detectron2 import add_ndpp_config
    from ndpp_dense.integrations.detectron2.run_config import _check_registered

    cfg = add_ndpp_config(get_cfg())
    cfg.MODEL.MASK_ON, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = True, ("own_a",), ("own_b",)
    document = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 20, "width": 20} for i in range(2)],
        "categories": [{"id": 3, "name": "cell"}, {"id": 5, "name": "debris"}],
        "annotations": [
            {"id": i + 1, "image_id": i % 2, "category_id": 3 + i // 2 * 2, "iscrowd": 0, "area": 8}
            | {"bbox": [1, 1, 4, 4], "segmentation": [[1, 1, 5, 1, 5, 5]]}
            for i in range(4)
        ],
    }
    for index in range(2):
        (tmp_path / f"{index}.png").touch()
    registered("own_a", document, tmp_path)
    registered("own_b", document, tmp_path, thing_classes=["cell", "debris"])
    (line,) = _check_registered(cfg, [])
    assert line.startswith("warning: 2 of 2 images of own_b are in own_a too")
    assert MetadataCatalog.get("own_a").thing_classes == ["cell", "debris"]
    harm(document)
    (tmp_path / "own_b.json").write_text(json.dumps(document))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        _check_registered(cfg, [])
    for name in ("own_a", "own_b"):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
