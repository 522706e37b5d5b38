"""What a data set asks of a configuration is said, and done where that is asked for."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: ndpp install-detectron2")

from ndpp_dense.integrations.detectron2.run_config import build_config

pytestmark = pytest.mark.detectron2


@pytest.fixture
def built(tiny_coco, tmp_path):
    """Returns a function that builds the configuration of a large network on small images."""

    def build(*words, fit=False):
        words = [*words, "MODEL.DEVICE", "cpu"]
        return build_config("mask_rcnn_ndpp", datasets=tiny_coco, output=str(tmp_path), overrides=words, fit=fit)

    return build


def test_it_is_said_and_not_done(built):
    cfg, remarks = built("INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "96")
    (line,) = [line for line in remarks if "ANCHOR_GENERATOR" in line]
    assert line.startswith(
        "--fit-data would set MODEL.ANCHOR_GENERATOR.SIZES [[16], [32], [64], [128], [256]]: objects"
    )
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES == [[32], [64], [128], [256], [512]]
    assert cfg.SOLVER.MAX_ITER == 90000


def test_it_is_done_and_overrides_win(built):
    sizes = ("INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "96")
    cfg, remarks = built(*sizes, "SOLVER.STEPS", "(7,)", fit=True)
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES == [[16], [32], [64], [128], [256]]
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS, cfg.TEST.EVAL_PERIOD) == (500, 50, 100)
    assert cfg.SOLVER.STEPS == (7,)
    assert any(line.startswith("SOLVER.MAX_ITER is 500: 9 images are seen 889 times") for line in remarks)


def test_yolos_layout_names_both_splits(tmp_path):
    from detectron2.data import DatasetCatalog
    from PIL import Image

    root = tmp_path / "yolo"
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        Image.new("RGB", (64, 48)).save(root / "images" / split / "one.png")
        (root / "labels" / split / "one.txt").write_text("1 0.25 0.2 0.75 0.2 0.75 0.8 0.25 0.8\n")
    file = root / "data.yaml"
    file.write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    flags = [f"pets_{split}={file}" for split in ("train", "val")]
    cfg, remarks = build_config("mask_rcnn_ndpp", datasets=flags, output=str(tmp_path / "run"), overrides=[])
    assert not any("too (first" in line for line in remarks)
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (("pets_train",), ("pets_val",))
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    (record,) = DatasetCatalog.get("pets_train")
    assert record["annotations"][0]["category_id"] == 1
    assert record["annotations"][0]["segmentation"]
    file.write_text("train: images/train\nval: images\nnames: [cat, dog]\n")
    flags = [f"dogs_{split}={file}" for split in ("train", "val")]
    _, remarks = build_config("mask_rcnn_ndpp", datasets=flags, output=str(tmp_path / "run"), overrides=[])
    assert any("warning: 1 of 2 images of dogs_val are in dogs_train too (first: " in line for line in remarks)
