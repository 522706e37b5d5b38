"""The command ``ndpp plan``, and that docs/scaling.md shows what it prints."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ndpp_dense.cli import main

pytest.importorskip("timm", reason="timm is not installed: extra 'pretrain'")
ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
RECORD = ROOT / "docs" / "results" / "plan" / "plan.json"


def printed(capsys, *words):
    assert main(["plan", *words]) == 0
    return capsys.readouterr().out.strip()


def test_the_page_shows_what_the_command_prints(capsys):
    assert printed(capsys, "--gpus", "8,64,512", "--seconds", "0.1") in PAGE
    assert "`ndpp plan --gpus 8,64,512 --seconds 0.1`" in PAGE


def test_the_page_shows_the_record(capsys):
    assert printed(capsys, "--record", str(RECORD)) in PAGE


def test_what_was_recorded_is_as_predicted():
    """Under "fresh" layers with few rows exchange twice, which the prediction leaves out."""
    record = json.loads(RECORD.read_text())
    for schedule, runs in record["runs"].items():
        assert list(runs) == ["1", "2", "4"]
        assert runs["1"]["bytes"] == runs["1"]["sums"] == 0
        for found in (runs["2"], runs["4"]):
            layers, bytes_of_layers = len(found["moments"]), sum(found["moments"])
            if schedule == "stale":
                assert (found["sums"], found["bytes"]) == (1, found["gradients"] + bytes_of_layers)
            else:
                assert layers <= found["sums"] < 2 * layers
                assert 0 <= found["bytes"] - found["gradients"] - bytes_of_layers < bytes_of_layers


def test_one_gpu_waits_for_nobody(capsys):
    assert printed(capsys, "--gpus", "1").splitlines()[-1] == "| 1 | 1 | 0 | 250.0 | 0.0% | 250.0 | 0.0% |"


def test_a_model_of_the_zoo(capsys):
    pytest.importorskip("detectron2", reason="Detectron2 is not installed: ndpp install-detectron2")
    first = printed(capsys, "--gpus", "8", "--model", "mask_rcnn_ndpp").splitlines()[0]
    gradients, statistics, layers, share = re.findall(r"[0-9.]+", first.split(": ")[1])[:4]
    assert f"sends {statistics} MB of statistics from {layers} layers" in PAGE
    assert f"{share} of full, and {gradients} MB of gradients" in PAGE


def test_a_model_without_nd_layers_sends_gradients_alone(capsys):
    first = printed(capsys, "--gpus", "8", "--model", "resnet50_hybrid_step").splitlines()[0]
    assert "0.0 MB of statistics from 0 layers, 0.25 s a step" in first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--link", "fast"], "--link 'fast'"),
        (["--gpus", "8,x"], "--gpus '8,x'.*whole numbers"),
        (["--gpus", "10", "--nodes", "4"], "--gpus 10 do not divide evenly"),
        (["--backbone", "resnet5"], "resnet5"),
        (["--check", "--processes", "2,4"], "--processes 2,4 must begin with 1"),
        (["--record", "nowhere.json"], "nowhere.json"),
    ],
)
def test_what_the_user_has_to_put_right(capsys, words, message):
    assert main(["plan", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error)


def test_two_processes_are_measured(tmp_path):
    words = ["plan", "--check", "--processes", "1,2", "--steps", "1", "--output", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "ndpp_dense.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=500)
    assert done.returncode == 0, done.stderr
    runs = json.loads((tmp_path / "plan.json").read_text())["runs"]
    assert [line.split("|")[1:4] for line in done.stdout.splitlines()[4:]] == [
        [" fresh ", " 1 ", " 0 "], [" fresh ", " 2 ", " 35 "], [" stale ", " 1 ", " 0 "], [" stale ", " 2 ", " 1 "]
    ]  # fmt: skip
    found = runs["stale"]["2"]
    assert found["bytes"] == found["gradients"] + sum(found["moments"])
    for schedule in ("fresh", "stale"):
        found = runs[schedule]["2"]
        assert 0 < found["wait_statistics"] < 1
        assert 0 < found["wait_gradients"] < 1
        assert runs[schedule]["1"]["wait_statistics"] == runs[schedule]["1"]["wait_gradients"] == 0
