"""The wheel, installed in a folder of its own, trains and predicts from outside the checkout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="hatchling is not installed: extra 'dev'")
ROOT = Path(__file__).resolve().parents[2]
SHORT = ["--device", "cpu", "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0"]
SHORT += ["DATASETS.TEST", "()", "TEST.EVAL_PERIOD", "0", "MODEL.NDPP.VERIFY", "False"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that the wheel was installed to."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    subprocess.run(build, check=True, capture_output=True, cwd=ROOT)
    (wheel,) = (folder / "dist").iterdir()
    install = ["install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--target", str(folder / "site")]
    subprocess.run([sys.executable, "-m", "pip", *install, str(wheel)], check=True, capture_output=True)
    return folder / "site"


@pytest.fixture
def start(installed, tmp_path):
    """Returns a function that starts words with the installed package, outside the checkout, and returns the output."""

    def run(*words, code=0):
        environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        environment.pop("NDPP_DEBUG", None)
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
        assert done.returncode == code, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout + done.stderr

    return run


def test_the_command_stands_beside_the_package(start, installed):
    where = start(sys.executable, "-c", "import ndpp_dense; print(ndpp_dense.__file__)")
    assert Path(where.strip()).parents[1] == installed
    ndpp = str(installed / "bin" / "ndpp")
    assert "train-det" in start(ndpp, "--help")
    assert "with the package" in start(ndpp, "zoo", "list")


@pytest.mark.detectron2
def test_it_trains_and_predicts(start, installed, tmp_path):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed: ndpp install-detectron2")
    ndpp = str(installed / "bin" / "ndpp")
    said = start(ndpp, "train-det", "--config", "mask_rcnn_ndpp_demo", *SHORT)
    assert "ND++ layers" in said
    assert (tmp_path / "output" / "mask_rcnn_ndpp_demo" / "model_final.pth").is_file()
    from PIL import Image

    Image.new("RGB", (160, 160), (90, 120, 60)).save(tmp_path / "ground.png")
    start(ndpp, "infer", "ground.png", "--weights", "mask_rcnn_ndpp_demo", "--output", "found", "--json")
    assert json.loads((tmp_path / "found" / "ground.png.json").read_text())["height"] == 160


@pytest.mark.slow
@pytest.mark.detectron2
@pytest.mark.parametrize("launcher", ["torchrun", "spawn"])
def test_it_trains_in_two_processes(start, installed, tmp_path, launcher):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed: ndpp install-detectron2")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    begin = {"torchrun": [*torchrun, "-m", "ndpp_dense.cli"], "spawn": [str(installed / "bin" / "ndpp")]}[launcher]
    more = ["--num-gpus", "2"] if launcher == "spawn" else []
    said = start(*begin, "train-det", "--config", "mask_rcnn_ndpp_demo", *more, *SHORT)
    assert "2 process" in said
    assert (tmp_path / "output" / "mask_rcnn_ndpp_demo" / "model_final.pth").is_file()
