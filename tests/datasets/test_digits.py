from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="sklearn is not installed")
pytest.importorskip("pycocotools", reason="pycocotools is not installed")

from PIL import Image
from pycocotools import mask as coco_mask

from ndpp_dense.datasets import digits, validate_coco
from ndpp_dense.datasets.digits import ensure_digits
from ndpp_dense.datasets.digits_scene import MAX_INSTANCES, draw_scene, load_glyphs

# pycocotools' decode and NumPy 2 disagree about a keyword of __array__.

SMALL = {"num_train": 12, "num_val": 5, "size": 96}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> digits.DigitsPaths:
    return ensure_digits(tmp_path_factory.mktemp("data"), **SMALL)


def _load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_both_splits_are_valid_coco_with_rle_masks(made):
    for split, count in (("train", 12), ("val", 5)):
        summary = validate_coco(
            getattr(made, f"{split}_json"), getattr(made, f"{split}_images"), name=f"digits_{split}"
        )
        assert summary.num_images == count
        assert summary.categories == ("0", "1", "2", "3", "4")
        assert summary.mask_format == "bitmask"


def test_area_box_and_crowd_agree_with_the_mask(made):
    for entry in _load(made.train_json)["annotations"]:
        assert entry["area"] == int(coco_mask.area(entry["segmentation"])) > 0
        assert entry["bbox"] == coco_mask.toBbox(entry["segmentation"]).tolist()
        assert entry["iscrowd"] == 0


def test_images_are_rgb_and_hold_one_to_six_disjoint_instances(made):
    document = _load(made.train_json)
    for entry in document["images"]:
        with Image.open(made.train_images / entry["file_name"]) as image:
            assert image.mode == "RGB"
            assert image.size == (96, 96)
        masks = [coco_mask.decode(a["segmentation"]) for a in document["annotations"] if a["image_id"] == entry["id"]]
        assert 1 <= len(masks) <= MAX_INSTANCES
        assert np.sum(masks, axis=0).max() == 1, "a hidden pixel belongs to the digit in front only"


def test_same_arguments_give_the_same_bytes_and_another_seed_does_not(made, tmp_path):
    again = ensure_digits(tmp_path, **SMALL)
    assert _contents(again.root) == _contents(made.root)
    other = ensure_digits(tmp_path, **SMALL, seed=1)
    assert other.root != again.root
    assert (other.train_images / "000000.png").read_bytes() != (again.train_images / "000000.png").read_bytes()


def test_more_images_keep_the_first_ones(made, tmp_path):
    more = ensure_digits(tmp_path, **{**SMALL, "num_train": 13})
    name = "000011.png"
    assert (more.train_images / name).read_bytes() == (made.train_images / name).read_bytes()


def test_second_call_generates_nothing(made, monkeypatch):
    monkeypatch.setattr(digits, "_generate", lambda *_: pytest.fail("generated again"))
    assert ensure_digits(made.root.parent, **SMALL) == made


def test_train_and_val_use_different_handwriting():
    train, val = load_glyphs(range(10), seed=0)
    assert len(train) + len(val) == 1797
    assert len(val) == pytest.approx(1797 / 4, abs=10)
    assert not {g.ink.tobytes() for g in train} & {g.ink.tobytes() for g in val}


def test_categories_can_be_chosen(tmp_path):
    paths = ensure_digits(tmp_path, num_train=6, num_val=1, size=64, categories=(7, 3))
    document = _load(paths.train_json)
    assert document["categories"] == [
        {"id": 8, "name": "7", "supercategory": "digit"},
        {"id": 4, "name": "3", "supercategory": "digit"},
    ]
    assert {a["category_id"] for a in document["annotations"]} == {4, 8}


def test_digits_cover_each_other_yet_stay_visible_and_vary_in_size():
    glyphs, _ = load_glyphs(range(5), seed=0)
    scenes = [draw_scene(glyphs, 160, np.random.default_rng(i)) for i in range(40)]
    heights = [int(m.any(1).sum()) for s in scenes for m in s.masks]
    assert min(heights) < 36
    assert max(heights) > 64
    boxes = [[(np.flatnonzero(m.any(1)), np.flatnonzero(m.any(0))) for m in s.masks] for s in scenes]
    touching = sum(
        bool(set(a[0]) & set(b[0])) and bool(set(a[1]) & set(b[1]))
        for scene in boxes
        for i, a in enumerate(scene)
        for b in scene[:i]
    )
    assert touching >= 5
    assert min(int(m.sum()) for s in scenes for m in s.masks) >= 20


def test_digits_differ_from_their_surroundings():
    glyphs, _ = load_glyphs(range(5), seed=0)
    for i in range(20):
        scene = draw_scene(glyphs, 96, np.random.default_rng(i))
        pixels = scene.image.astype(np.float32)
        ground = pixels[~np.any(scene.masks, axis=0)].mean(0)
        assert any(np.abs(pixels[m].mean(0) - ground).max() > 20 for m in scene.masks)


def test_processes_that_ask_at_once_get_one_complete_set(tmp_path):
    code = "import sys; from ndpp_dense.datasets.digits import ensure_digits as f; "
    code += "print(f(sys.argv[1], num_train=3, num_val=1, size=64).root)"
    command = [sys.executable, "-c", code, str(tmp_path)]
    workers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for _ in range(2)
    ]
    roots = {worker.communicate(timeout=400)[0].strip() for worker in workers}
    assert len(roots) == 1
    assert len(list(Path(roots.pop()).glob("train/*.png"))) == 3
    assert [p for p in tmp_path.iterdir() if p.is_dir() and p.name.startswith(".")] == []


def test_losing_the_rename_race_keeps_the_winner(tmp_path, monkeypatch):
    """On a file system without locks another process may finish while this one still generates."""
    generate = digits._generate

    def generate_while_another_finishes(recipe, folder):
        generate(recipe, folder)
        final = digits._locate(recipe, tmp_path).root
        final.mkdir()
        (final / "train.json").write_text("the winner's")

    monkeypatch.setattr(digits, "_generate", generate_while_another_finishes)
    paths = ensure_digits(tmp_path, num_train=1, num_val=1, size=64)
    assert paths.train_json.read_text() == "the winner's"


def test_failure_leaves_no_half_made_set(tmp_path, monkeypatch):
    def fail(recipe, folder):
        (folder / "train.json").write_text("{}")
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(digits, "_generate", fail)
    with pytest.raises(RuntimeError, match="on fire"):
        ensure_digits(tmp_path, **SMALL)
    assert [p for p in tmp_path.iterdir() if p.is_dir()] == []


def test_folder_is_readable_for_others(made):
    mask = os.umask(0)
    os.umask(mask)
    assert made.root.stat().st_mode & 0o777 == 0o777 & ~mask


def test_all_bad_arguments_are_reported_together(tmp_path):
    with pytest.raises(ValueError, match=r"num_train=0 .*size=32 .*categories=\(1, 1\)"):
        ensure_digits(tmp_path, num_train=0, size=32, categories=(1, 1))


def test_unwritable_root_names_the_way_out(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError("denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(PermissionError, match="NDPP_HOME"):
        ensure_digits(tmp_path / "locked", **SMALL)
