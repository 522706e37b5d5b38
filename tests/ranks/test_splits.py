"""One training as several numbers of processes and images a process: the losses are the same.

Conditions, of which the workers take care: no random numbers that depend on the rank (sampled regions, dropout); equal
image sizes after padding; losses that are means over what all ranks have (``SOLVER.MEAN_OVER_ALL_REGIONS``).
ResNet and DeepLabv3 run in float64, in which rounding does not grow to the figure that is compared.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WORKERS = {
    "pretrain": ("timm", 1e-6),  # the loss itself is taken in float32
    "mask_rcnn": ("detectron2", 1e-5),
    "deeplabv3": ("mmseg", 1e-9),
}
NETWORKS = [pytest.param(name, marks=[] if package == "timm" else getattr(pytest.mark, package))
            for name, (package, _) in WORKERS.items()]  # fmt: skip


def start(worker, folder, *words, before=(), **settings):
    if importlib.util.find_spec(WORKERS[worker][0]) is None:
        pytest.skip(f"{WORKERS[worker][0]} is not installed")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    environment |= {f"NDPP_TEST_{name}": str(value) for name, value in settings.items()}
    interface = environment.pop("NDPP_TEST_INTERFACE", None)
    environment |= {"GLOO_SOCKET_IFNAME": interface} if interface else {}
    folder.mkdir(exist_ok=True)
    command = [*before, sys.executable, str(HERE / f"{worker}_worker.py"), str(folder), *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    output, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, output[-3000:]


def same_losses(folder, worker, worlds, steps):
    one, *others = (torch.load(folder / f"{world}.pt") for world in worlds)
    assert len(one["losses"]) == steps
    assert len(set(one["losses"])) == steps
    for other in others:
        assert other["losses"] == pytest.approx(one["losses"], rel=WORKERS[worker][1])
    return others[-1]


@pytest.mark.parametrize("worker", NETWORKS)
def test_two_processes_are_one(worker, tmp_path):
    finish(start(worker, tmp_path, "1,2", STEPS=3))
    same_losses(tmp_path, worker, [1, 2], 3)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("worker", NETWORKS)
def test_twenty_steps_of_one_two_four_and_eight_processes(worker, tmp_path):
    finish(start(worker, tmp_path, "1,2,4,8", STEPS=20))
    last = same_losses(tmp_path, worker, [1, 2, 4, 8], 20)
    assert worker != "mask_rcnn" or last["empty"] > 0  # ranks without ground truth


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_micro_batches_split_among_processes_as_images_do(tmp_path):
    """Two micro-batches a step, of which the first moves the statistics, on one, two and four processes."""
    finish(start("pretrain", tmp_path, "1,2,4", STEPS=10, PORTIONS=2))
    same_losses(tmp_path, "pretrain", [1, 2, 4], 10)


def test_under_stale_micro_batches_and_processes_are_one_batch(tmp_path):
    """Statistics over the whole batch, however it is cut."""
    finish(start("pretrain", tmp_path, "1", STEPS=4, SCHEDULE="stale"))
    finish(start("pretrain", tmp_path / "parts", "1,2", STEPS=4, SCHEDULE="stale", PORTIONS=2))
    (tmp_path / "1.pt").rename(tmp_path / "parts" / "0.pt")
    same_losses(tmp_path / "parts", "pretrain", [0, 1, 2], 4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_goes_on_with_half_of_the_processes(tmp_path):
    """From four to two: the same images in every step, and the same losses."""
    finish(start("pretrain", tmp_path, "1", STEPS=20))
    finish(start("pretrain", tmp_path, "4,2", STEPS=20, SHARED=1))
    assert len(torch.load(tmp_path / "4.pt")["losses"]) == 10
    same_losses(tmp_path, "pretrain", [1, 2], 20)


@pytest.mark.slow
@pytest.mark.detectron2
def test_means_of_single_ranks_would_differ(tmp_path):
    """Detectron2's own way, and that the comparison sees it."""
    finish(start("mask_rcnn", tmp_path, "1,4", STEPS=2, MEAN="False"))
    with pytest.raises(AssertionError):
        same_losses(tmp_path, "mask_rcnn", [1, 4], 2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("worker", NETWORKS)
def test_two_hosts_of_two_processes_are_one(worker, tmp_path, two_hosts):
    finish(start(worker, tmp_path, "1", STEPS=20))
    url = f"tcp://{two_hosts.address}:29555"
    ends = [
        start(worker, tmp_path, 4, first, 2, url, STEPS=20, INTERFACE=link, before=inside)
        for first, (inside, link) in zip((0, 2), two_hosts.ends, strict=True)
    ]
    for end in ends:
        finish(end)
    same_losses(tmp_path, worker, [1, 4], 20)
