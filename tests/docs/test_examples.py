"""The scripts of examples/ run, in tiny form, and stay short."""

import runpy
import sys
import warnings

import pytest
from doc_pages import ROOT

from ndpp_dense.datasets.streets import ensure_streets

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# Words, what the script needs, and what it prints.
TINY = {
    "torchvision_loop.py": (["--steps", "1"], "torchvision", "dict_keys(['boxes', 'labels', 'scores', 'masks'])"),
    "detectron2_trainer.py": (["--steps", "1", "--images", "8"], "detectron2", "folded: 0 ND++ layers"),
    "mmseg_runner.py": (["--steps", "1", "--data", "streets"], "mmseg", "folded: 0 ND++ layers"),
    "timm_finetuning.py": (["--steps", "1"], "timm", "fine-tuned: "),
    "onnx_deployment.py": ([], "onnxruntime", "largest difference between onnxruntime and torch"),
}


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_short_and_listed(script):
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 60
    assert f"]({script.name})" in (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert script.name in TINY


def test_there_are_five():
    assert len(EXAMPLES) == 5


@pytest.mark.parametrize("name", TINY)
def test_an_example_runs(name, run, capsys):
    words, needed, said = TINY[name]
    pytest.importorskip(needed, reason=f"{needed} is not installed: see examples/README.md")
    run(name, words)
    assert said in capsys.readouterr().out


def test_the_segmentor_of_torchvision_runs(run, capsys):
    pytest.importorskip("torchvision", reason="torchvision is not installed: pip install -e '.[pretrain]'")
    run("torchvision_loop.py", ["--steps", "1", "--model", "deeplabv3"])
    said = capsys.readouterr().out
    assert "1 left plain" in said  # the prediction layer
    assert "torch.Size([1, 2, 128, 128])" in said


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Returns a function that runs a script with words, in an empty folder."""

    def start(name, words):
        if name == "mmseg_runner.py":
            made = ensure_streets(tmp_path, num_train=8, num_val=2)
            (tmp_path / "streets").symlink_to(made)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("NDPP_HOME", str(tmp_path / "home"))
        monkeypatch.setattr(sys, "argv", [name, *words])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of frameworks: the package's own tests turn these into errors
            runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")

    return start
