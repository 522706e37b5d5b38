"""MMSegmentation's own command line runs the configs: nothing but the package has to be installed."""

import subprocess
import sys
import uuid
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("mmengine", reason="mmengine is not installed")

from ndpp_dense.config_files import find_config  # noqa: E402

pytestmark = pytest.mark.mmseg


@pytest.fixture
def own_train():
    """Return MMSegmentation's tools/train.py, which its wheel brings along."""
    script = Path(find_spec("mmseg").origin).parent / ".mim" / "tools" / "train.py"
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


@pytest.fixture
def config_file(run_config, tmp_path):
    """Return a config as a user has it in a file, for batches of which the momentum depends."""
    config = run_config(train_dataloader__batch_size=6, train_cfg__max_iters=2)
    config.optim_wrapper.accumulative_counts = 2
    config.dump(tmp_path / "small.py")
    return tmp_path / "small.py"


@pytest.mark.parametrize("ndpp", [{}, {"rules": {"backbone.stem.*": {"momentum": 0.3}}}, {"momentum": 0.2}], ids=str)
def test_its_runs_have_the_momentum_of_ours(config_file, tmp_path, ndpp):
    from mmengine.config import Config
    from mmengine.runner import Runner

    from ndpp_dense import nd_layers
    from ndpp_dense.integrations.mmseg.run_config import build_config

    options = {f"model.ndpp.{name}": value for name, value in ndpp.items()}
    ours = build_config(str(config_file), work_dir=str(tmp_path / "ours"), options=options)
    theirs = Config.fromfile(str(config_file))  # as its tools/train.py does
    theirs.merge_from_dict(options)
    theirs.work_dir = str(tmp_path / "theirs")
    found = []
    for config in (ours, theirs):
        config.experiment_name = uuid.uuid4().hex
        runner = Runner.from_cfg(config)
        runner.train()
        layers = dict(nd_layers(runner.model))
        found.append({name: (layer.config, layer.whitening.momentum) for name, layer in layers.items()})
    assert found[0] == found[1]
    fitted = ndpp.get("momentum", 1 - 0.9 ** (12 / 8))
    assert {momentum for _, momentum in found[0].values()} == {fitted} | ({0.3} if "rules" in ndpp else set())
