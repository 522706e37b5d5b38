"""Any folder of images and labels trains and is evaluated under a config of other classes."""

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmseg", reason="MMSegmentation is not installed: pip install 'ndpp-dense[mmseg]'")

from ndpp_dense.cli import main
from ndpp_dense.integrations.mmseg.run_config import build_config

pytestmark = pytest.mark.mmseg


@pytest.fixture
def folder(tmp_path):
    """Three classes, 9 for what is ignored, in a layout that no config has."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("img", "masks"):
            (tmp_path / "set" / split / kind).mkdir(parents=True)
        for number in range(count):
            labels = np.kron(rng.integers(0, 3, (3, 4)), np.ones((16, 16))).astype(np.uint8)
            labels[:4] = 9
            pixels = (np.minimum(labels, 2)[..., None] * 100 + rng.integers(0, 40, (48, 64, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / split / "img" / f"{number}.bmp")
            Image.fromarray(labels).save(tmp_path / "set" / split / "masks" / f"{number}_gt.png")
    (tmp_path / "names.txt").write_text("ground\nplant\nstone\n")
    return tmp_path


def test_the_configuration_follows_the_folder(folder):
    config = build_config(
        "deeplabv3_r18_ndpp_camvid",
        dataset=str(folder / "set"),
        classes=str(folder / "names.txt"),
        work_dir=str(folder),
    )
    for loader, split in ((config.train_dataloader, "train"), (config.test_dataloader, "val")):
        dataset = loader.dataset
        assert dataset.data_prefix == {"img_path": f"{split}/img", "seg_map_path": f"{split}/masks"}
        assert (dataset.img_suffix, dataset.seg_map_suffix, dataset.ignore_index) == (".bmp", "_gt.png", 9)
        steps = {step["type"]: step for step in dataset.pipeline}
        assert (steps["CheckLabels"]["num_classes"], steps["CheckLabels"]["ignore_index"]) == (3, 9)
    heads = (config.model.decode_head, config.model.auxiliary_head)
    assert [(head.num_classes, head.ignore_index) for head in heads] == [(3, 9)] * 2
    assert config.model.data_preprocessor.seg_pad_val == 9
    assert config.val_evaluator.ignore_index == 9


def test_it_trains_and_is_evaluated(folder, tmp_path):
    words = ["train-seg", "--config", "deeplabv3_r18_ndpp_camvid", "--dataset", str(folder / "set")]
    words += ["--classes", str(folder / "names.txt"), "--work-dir", str(tmp_path / "run"), "--cfg-options"]
    words += ["train_cfg.max_iters=2", "train_cfg.val_interval=2", "train_dataloader.batch_size=2"]
    words += ["train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False"]
    words += ["val_dataloader.num_workers=0", "val_dataloader.persistent_workers=False"]
    assert main(words) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert "plant" in json.dumps(results)


def test_names_need_a_folder(folder):
    with pytest.raises(ValueError, match="names the classes of --dataset FOLDER: give both"):
        build_config("deeplabv3_r18_ndpp_camvid", classes=str(folder / "names.txt"))
