"""A training run small enough for tests: a few generated images and a Mask R-CNN of a few thousand weights."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]
CONFIG = """
VERSION: 2
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  MASK_ON: True
  DEVICE: cpu
  BACKBONE: {NAME: build_resnet_fpn_backbone, FREEZE_AT: 0}
  RESNETS: {NORM: GN, WIDTH_PER_GROUP: 32, STEM_OUT_CHANNELS: 32, RES2_OUT_CHANNELS: 32,
            OUT_FEATURES: [res2, res3, res4, res5]}
  FPN: {IN_FEATURES: [res2, res3, res4, res5], OUT_CHANNELS: 8}
  ANCHOR_GENERATOR: {SIZES: [[8], [16], [32], [64], [128]]}
  RPN: {IN_FEATURES: [p2, p3, p4, p5, p6], PRE_NMS_TOPK_TRAIN: 50, POST_NMS_TOPK_TRAIN: 50, BATCH_SIZE_PER_IMAGE: 16}
  ROI_HEADS: {NAME: StandardROIHeads, IN_FEATURES: [p2, p3, p4, p5], NUM_CLASSES: 2, BATCH_SIZE_PER_IMAGE: 8}
  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 1, FC_DIM: 16, POOLER_RESOLUTION: 7}
  ROI_MASK_HEAD: {NAME: MaskRCNNConvUpsampleHead, NUM_CONV: 1, CONV_DIM: 8, POOLER_RESOLUTION: 7}
INPUT: {MIN_SIZE_TRAIN: [48, 64], MAX_SIZE_TRAIN: 96, MIN_SIZE_TEST: 64, MAX_SIZE_TEST: 96}
SOLVER: {IMS_PER_BATCH: 2, BASE_LR: 0.01, MAX_ITER: 8, STEPS: [6], WARMUP_ITERS: 2, CHECKPOINT_PERIOD: 3, LOG_PERIOD: 1}
TEST: {EVAL_PERIOD: 0, STATS_BATCHES: 2}
DATALOADER: {NUM_WORKERS: 0}
SEED: 7
"""


@pytest.fixture(autouse=True)
def restore_train_loop():
    """Undo what a run did to the logger of Detectron2's training loop."""
    pytest.importorskip("detectron2", reason="Detectron2 is not installed: ndpp install-detectron2")
    yield
    logging.getLogger("detectron2.engine.train_loop").filters.clear()


@pytest.fixture(scope="session")
def tiny_coco(tmp_path_factory):
    """Return the flags of a training and a validation set of squares and bars, portrait and landscape."""
    folder = tmp_path_factory.mktemp("tiny_coco")
    return [f"tiny_{split}={make_coco(folder / split, count)}:{folder / split}" for split, count in SPLITS]


SPLITS = (("train", 9), ("val", 3))


def make_coco(folder, count):
    """Write `count` images of 64 x 48 or 48 x 64 pixels with two shapes each; returns the annotation file."""
    from PIL import Image

    folder.mkdir(parents=True)
    rng = np.random.default_rng(count)
    images, annotations = [], []
    for index in range(count):
        height, width = (48, 64) if index % 3 else (64, 48)
        pixels = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
        for category in (1, 2):
            w, h = (16, 16) if category == 1 else (8, 24)
            x, y = (int(rng.integers(0, limit - side)) for limit, side in ((width, w), (height, h)))
            pixels[y : y + h, x : x + w] = (200, 80 * category, 30)
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            shape = {"id": len(annotations) + 1, "image_id": index, "category_id": category, "iscrowd": 0}
            annotations.append({**shape, "bbox": [x, y, w, h], "area": w * h, "segmentation": [corners]})
        Image.fromarray(pixels).save(folder / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.png", "width": width, "height": height})
    categories = [{"id": 1, "name": "square"}, {"id": 2, "name": "bar"}]
    file = folder / "coco.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory):
    """Return the path of a config without ND++ layers."""
    file = tmp_path_factory.mktemp("config") / "tiny.yaml"
    file.write_text(CONFIG)
    return file


@pytest.fixture
def build_tiny(tiny_config, tiny_coco, tmp_path):
    """Return a function that builds a frozen configuration from overrides."""

    def build(*overrides):
        from ndpp_dense.integrations.detectron2.run_config import build_config

        words = [str(word) for word in overrides]
        return build_config(str(tiny_config), datasets=tiny_coco, output=str(tmp_path / "run"), overrides=words)[0]

    return build


@pytest.fixture
def train_net(tiny_config, tiny_coco):
    """Return a function that starts ndpp train-det on the tiny run; arguments come before the overrides."""

    def start(output, *words, launcher=()):
        flags = [word for flag in tiny_coco for word in ("--dataset", flag)]
        script = [*(launcher or [sys.executable]), str(ROOT / "tools" / "train_net.py"), "--config", str(tiny_config)]
        command = [*script, *flags, "--device", "cpu", "--output", str(output), *map(str, words)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)

    return start


@pytest.fixture
def flat_checkpoint():
    """Return a function that reads a checkpoint as one flat dictionary, safely."""

    def flatten(value, name=""):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            if isinstance(item, dict | list | tuple):
                yield from flatten(item, f"{name}.{key}")
            else:
                yield f"{name}.{key}", item

    return lambda file: dict(flatten(torch.load(file, weights_only=True)))


@pytest.fixture
def differences(flat_checkpoint):
    """Return a function that names the entries in which two checkpoints differ by as much as a bit."""

    def compare(one, other):
        a, b = flat_checkpoint(one), flat_checkpoint(other)
        assert len(a) > 100
        return sorted(a.keys() ^ b.keys()) + [name for name in a.keys() & b.keys() if not _same(a[name], b[name])]

    return compare


def _same(a, b):
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.fixture
def run_tiny(build_tiny):
    """Return a function that trains the tiny model to its end in this process; returns the trainer."""

    def run(*overrides, resume=False):
        from ndpp_dense.integrations.detectron2.run_config import prepare_run
        from ndpp_dense.integrations.detectron2.trainer import NDTrainer

        cfg = build_tiny(*overrides)
        prepare_run(cfg)
        trainer = NDTrainer(cfg)
        trainer.resume_or_load(resume)
        trainer.train()
        return trainer

    return run
