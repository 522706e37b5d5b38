"""The pages that newcomers follow, word by word: each command runs, in the order of the page, with few iterations."""

import os
import subprocess
import sys

import numpy as np
import pytest
from doc_pages import ROOT, blocks, commands

from ndpp_dense.datasets import ensure_digits

FEW_DET = ["--device", "cpu", "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "SOLVER.IMS_PER_BATCH", "2"]
FEW_DET += ["DATALOADER.NUM_WORKERS", "0", "TEST.EVAL_PERIOD", "0"]
FEW_SEG = ["--cfg-options", "train_cfg.max_iters=2", "train_cfg.val_interval=2", "default_hooks.checkpoint.interval=2"]
FEW_SEG += ["train_dataloader.batch_size=2", "train_dataloader.num_workers=0", "val_dataloader.num_workers=0"]
FEW_SEG += ["train_dataloader.persistent_workers=False", "val_dataloader.persistent_workers=False"]
PAGES = ["README.md", "docs/start/detector.md", "docs/start/segmentor.md"]
NEEDS = {"README.md": "detectron2", "docs/start/detector.md": "detectron2", "docs/start/segmentor.md": "mmseg"}
ELSEWHERE = ("make", "pip", "install-detectron2", "python")  # run by tests of their own


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_runs(page, reader):
    pytest.importorskip(NEEDS[page], reason=f"{NEEDS[page]} is not installed: see docs/start/install.md")
    ran = [reader(words) for words in commands(ROOT / page) if not set(ELSEWHERE) & set(words[:2])]
    assert ran


@pytest.fixture
def reader(tmp_path):
    """Returns a function that runs a command where a reader would, with data of the names that the pages use."""
    digits = ensure_digits(tmp_path / "made", num_train=8, num_val=4)
    (tmp_path / "images").mkdir()
    for split, file, images in (
        ("train", digits.train_json, digits.train_images),
        ("val", digits.val_json, digits.val_images),
    ):
        (tmp_path / f"{split}.json").symlink_to(file)
        (tmp_path / "images" / split).symlink_to(images)
    (tmp_path / "photo.jpg").symlink_to(next(iter(digits.val_images.glob("*.png"))))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    label_maps(tmp_path / "data" / "leaves", 3, (144, 160), ".png")
    label_maps(tmp_path / "data" / "camvid", 11, (360, 480), ".jpg")
    for block in blocks(ROOT / "docs" / "start" / "segmentor.md", "python"):
        (tmp_path / "leaves.py").write_text(block.text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NDPP_HOME": str(tmp_path / "home")}

    def run(words):
        words = [word.replace("iter_500", "iter_2") for word in words]
        if words[1] in ("train-det", "train-seg"):
            words += FEW_DET if words[1] == "train-det" else FEW_SEG
        start = [sys.executable, "-m", "ndpp_dense.cli", *words[1:]]
        done = subprocess.run(start, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    return run


def label_maps(folder, classes, size, suffix):
    """Write four images and label maps a split, as MMSegmentation reads them."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for number in range(4):
            labels = np.repeat(rng.integers(0, classes, size[1], dtype=np.uint8)[None], size[0], axis=0)
            Image.fromarray(labels).save(folder / "labels" / split / f"{number}.png")
            Image.fromarray(np.stack([labels * 20] * 3, axis=-1)).save(folder / "images" / split / f"{number}{suffix}")
