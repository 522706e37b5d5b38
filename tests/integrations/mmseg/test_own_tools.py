"""MMSegmentation's own command line runs the configs: nothing but the package has to be installed."""

import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

pytest.importorskip("mmengine", reason="mmengine is not installed")

from ndpp_dense.config_files import find_config  # noqa: E402

pytestmark = pytest.mark.mmseg


@pytest.fixture
def own_train():
    """Return MMSegmentation's tools/train.py, which its wheel brings along."""
    script = Path(str(distribution("mmsegmentation").locate_file("mmseg/.mim/tools/train.py")))
    if not script.is_file():
        pytest.skip(f"this build of MMSegmentation has no {script.name}")
    return script


def test_its_train_script_runs_a_config_unchanged(own_train, streets, tmp_path):
    loaders = [f"{name}_dataloader.dataset.data_root={streets}" for name in ("train", "val", "test")]
    options = [
        *loaders,
        "train_cfg.max_iters=1",
        "train_cfg.val_interval=1",
        "train_dataloader.batch_size=2",
        "custom_hooks.1.num_batches=1",
    ]
    options += ["model.data_preprocessor.size=(32,32)", "train_dataloader.dataset.pipeline.4.crop_size=(32,32)"]
    words = [str(find_config("deeplabv3_ndpp_demo")), "--work-dir", str(tmp_path / "run"), "--cfg-options", *options]
    done = subprocess.run([sys.executable, str(own_train), *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {"results.json", "curves.png", "predictions.png"} <= {path.name for path in (tmp_path / "run").iterdir()}
