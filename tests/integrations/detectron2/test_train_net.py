"""The command line: several processes, evaluation only, and errors a user can act on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from ndpp_dense.cli import main

pytestmark = pytest.mark.detectron2
ROOT = Path(__file__).resolve().parents[3]
SHORT = ("SOLVER.MAX_ITER", 3, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.ACCUMULATION_STEPS", 2)
NDPP = ("MODEL.META_ARCHITECTURE", "NDPPModel", "MODEL.NDPP.VERIFY", False, "MODEL.NDPP.STATISTICS", "batch")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch):
    monkeypatch.delenv("NDPP_DEBUG", raising=False)


def finish(process):
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output
    return output


def test_torchrun_and_num_gpus_train_alike_on_two_processes(train_net, differences, tmp_path):
    spawned = finish(train_net(tmp_path / "spawn", "--num-gpus", 2, *NDPP, *SHORT))
    finish(train_net(tmp_path / "torchrun", *NDPP, *SHORT, launcher=TORCHRUN))
    assert "cpu, 2 process(es), 9 training images, 3 test images, " in spawned
    assert spawned.count(" ND++ layers\n") == 1
    a, b = (tmp_path / name / "model_final.pth" for name in ("spawn", "torchrun"))
    assert differences(a, b) == []
    saved = torch.load(a, weights_only=True)
    assert (saved["world_size"], len(saved["rng"])) == (2, 2)
    assert not torch.equal(saved["rng"][0]["torch"], saved["rng"][1]["torch"])


@pytest.fixture
def command(tiny_config, tiny_coco, tmp_path, monkeypatch):
    """Run the script in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words, config=tiny_config, datasets=tiny_coco):
        flags = [word for flag in datasets for word in ("--dataset", flag)]
        return main(["train-det", "--config", str(config), *flags, "--device", "cpu", *map(str, words)])

    return run


def suggested(output, photo):
    """The words of the command at the end of a run, for a picture."""
    words = output.rpartition("Try it on a picture of yours: ndpp ")[2].splitlines()[0].split()
    return [str(photo) if word == "IMAGE" else word for word in words]


def test_train_evaluate_and_the_default_folder(command, tmp_path, capsys):
    command("--resume", "SOLVER.MAX_ITER", 1)
    output = capsys.readouterr()
    assert "2 categories in the data: MODEL.ROI_HEADS.NUM_CLASSES is 2" in output.out
    assert "Nothing to resume in output/tiny: starting fresh" in output.out
    assert "no ND++ layers" in output.out
    assert f"The page of the run is {Path('output', 'tiny', 'report.html')}" in output.out
    Image.new("RGB", (64, 48)).save(tmp_path / "photo.png")
    assert main(suggested(output.out, tmp_path / "photo.png")) == 0
    assert (tmp_path / "out" / "photo.png.png").is_file()
    folder = tmp_path / "output" / "tiny"
    results = (folder / "results.json").read_text()
    command("--eval-only", "--output", "again", "MODEL.WEIGHTS", folder / "model_final.pth")
    assert (tmp_path / "again" / "results.json").read_text() == results
    assert "evaluation only" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("SOLVER.BASE_LRR", 1), "no configuration key 'SOLVER.BASE_LRR'. The nearest: SOLVER.BASE_LR"),
        (("SOLVER.MASK_ON", 1), "no configuration key 'SOLVER.MASK_ON'. The nearest: MODEL.MASK_ON"),
        (("SOLVER.BASE_LR",), "overrides are KEY VALUE pairs (no '='), got 1 words"),
        (("SOLVER.MAX_ITER", "many"), "override SOLVER.MAX_ITER many: SOLVER.MAX_ITER must be a whole number"),
        (("MODEL.NDPP.RULES", "{'a': "), "override MODEL.NDPP.RULES {'a': : it is no YAML"),
        (("MODEL.NDPP.RULES", "False"), "it is a bool, no mapping. Write it as in a config file"),
        (("MODEL.NDPP.RULE", "{}"), "no configuration key 'MODEL.NDPP.RULE'. The nearest: MODEL.NDPP.RULES"),
        (("MODEL.WEIGHTS", "lost.pth"), "checkpoint lost.pth not found"),
        (("DATASETS.TRAIN", "('digits_trian',)"), "data set 'digits_trian' is not registered"),
        (("SOLVER.IMS_PER_BATCH", 5, "SOLVER.ACCUMULATION_STEPS", 2), "does not split evenly"),
        (("SOLVER.BASE_LR", 1e30, "SOLVER.WARMUP_ITERS", 0), "training diverged at iteration 1"),
    ],
)
def test_user_errors_are_one_paragraph_and_exit_code_2(command, capsys, words, message):
    assert command(*words) == 2
    output = capsys.readouterr()
    assert output.err.rsplit("error: ", 1)[-1].startswith(message) or message in output.err
    assert "Traceback" not in output.err + output.out


def test_a_wrong_config_or_data_set_is_named(command, capsys, tmp_path):
    assert command(config="no_such_config") == 2
    assert "error: no config 'no_such_config'" in capsys.readouterr().err
    assert command(datasets=[f"cells_train={tmp_path}/none.json:{tmp_path}"]) == 2
    assert "none.json" in capsys.readouterr().err


def test_different_categories_are_refused(command, tiny_coco, capsys, tmp_path):
    annotations, _, images = tiny_coco[1].partition("=")[2].partition(":")
    (tmp_path / "other.json").write_text(Path(annotations).read_text().replace('"bar"', '"rod"'))
    assert command(datasets=[tiny_coco[0], f"other_val={tmp_path / 'other.json'}:{images}"]) == 2
    assert "different categories: 2 (square, bar) and 2 (square, rod)" in capsys.readouterr().err


def test_a_traceback_on_request(command):
    with pytest.raises(KeyError, match="BASE_LRR"):
        command("--traceback", "SOLVER.BASE_LRR", 1)
    with pytest.raises(ValueError, match="--num-gpus 0"):
        command("--traceback", "--num-gpus", 0)


def test_help_needs_no_framework():
    env = {**os.environ, "PYTHONWARNINGS": "error"}
    command = [sys.executable, str(ROOT / "tools" / "train_net.py"), "--help"]
    output = subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout
    assert "--dataset NAME=JSON:IMAGES" in output


def test_rules_on_the_command_line_join_those_of_the_config(tmp_path):
    from ndpp_dense.integrations.detectron2.config import read_options
    from ndpp_dense.integrations.detectron2.run_config import build_config

    (tmp_path / "ruled.yaml").write_text('MODEL: {NDPP: {RULES: {"*.stem.*": False, "*.fpn_*": {EPS: 0.2}}}}\n')
    rules = '{"*.fpn_*": {BLOCK_SIZE: 8}, "*.stem.*": {EPS: 0.05}, "backbone.*.conv1": {LOCAL_SCALE: none}}'
    demo = ("DATASETS.TRAIN", "('digits_train',)", "DATASETS.TEST", "('digits_val',)")
    cfg, _ = build_config(str(tmp_path / "ruled.yaml"), overrides=[*demo, "MODEL.NDPP.RULES", rules])
    assert read_options(cfg).rules == {
        "*.stem.*": {"EPS": 0.05},
        "*.fpn_*": {"BLOCK_SIZE": 8},
        "backbone.*.conv1": {"LOCAL_SCALE": "none"},
    }
