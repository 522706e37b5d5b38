"""Twenty kills of each training tool, some of them in the middle of a save, end in the bits of a run left alone."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SMALL = [
    "model.backbone.stem_channels=8", "model.backbone.base_channels=8", "model.decode_head.in_channels=64",
    "model.decode_head.channels=16", "model.auxiliary_head.in_channels=32", "model.auxiliary_head.channels=8",
    "model.data_preprocessor.size=(48,64)", "train_dataloader.batch_size=2", "train_dataloader.num_workers=0",
    "train_dataloader.persistent_workers=False", "train_dataloader.dataset.pipeline.3.scale=(96,48)",
    "train_dataloader.dataset.pipeline.4.crop_size=(48,64)", "train_cfg.max_iters=6", "train_cfg.val_interval=99",
    "default_hooks.checkpoint.interval=1",
]  # fmt: skip


def _load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words_of(tool, folder):
    """What the tool takes for a run of a minute at most."""
    if tool == "pretrain":
        tiny = _load("tiny_pretraining", HERE.parent / "pretrain" / "conftest.py")
        tiny.write_tree(folder / "images")
        config = {**tiny.SETTINGS, "epochs": 3, "eval_every": 3, "save_every": 1}
        (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
        return ["--config", folder / "tiny.yaml", "--data", folder / "images", "--device", "cpu"]
    if tool == "train-seg":
        pytest.importorskip("mmseg", reason="mmsegmentation is not installed")
        from ndpp_dense.datasets.streets import ensure_streets

        data = ensure_streets(folder / "streets", num_train=6, num_val=2, height=48)
        return ["--config", "deeplabv3_ndpp_demo", "--dataset", data, "--cfg-options", *SMALL]
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    tiny = _load("tiny_detection", HERE.parent / "integrations" / "detectron2" / "conftest.py")
    (folder / "tiny.yaml").write_text(tiny.CONFIG)
    sets = [f"tiny_{name}={tiny.make_coco(folder / name, count)}:{folder / name}" for name, count in tiny.SPLITS]
    overrides = ["MODEL.META_ARCHITECTURE", "NDPPModel", "MODEL.NDPP.VERIFY", False, "SOLVER.CHECKPOINT_PERIOD", 1]
    flags = [word for flag in sets for word in ("--dataset", flag)]
    return [*overrides, "--config", folder / "tiny.yaml", *flags, "--device", "cpu"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("tool", ["train-det", "train-seg", "pretrain"])
def test_twenty_kills(tool, tmp_path):
    words = [str(word) for word in words_of(tool, tmp_path)]
    command = [
        sys.executable,
        str(HERE / "killer.py"),
        tool,
        str(tmp_path),
        os.environ.get("NDPP_TEST_KILLS", "20"),
        "7",
    ]
    result = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    sys.stdout.write(result.stdout)  # pytest -rP shows it
    assert result.returncode == 0, result.stdout + result.stderr
