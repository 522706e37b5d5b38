"""The cost model, against sums made by hand."""

import pytest
import torch
from torch import nn

from ndpp_dense import NDConv2d, NDLinear, WhiteningConfig
from ndpp_dense.distributed.plan import Cluster, Work, full_moment_bytes, link_speed, predict, work_of


def test_bytes_of_a_network():
    config = WhiteningConfig(block_size=4)
    own = WhiteningConfig(sync=False)
    model = nn.Sequential(NDConv2d(8, 6, 1, config=config), NDLinear(6, 2, config=own), nn.Conv2d(2, 2, 1))
    work = work_of(model, 0.5)
    assert work.moment_bytes == (4 * (1 + 2 * (4 + 10)),)
    assert work.gradient_bytes == 4 * (8 * 6 + 6 + 6 * 2 + 2 + 4 + 2)


@pytest.mark.parametrize(("dim", "message", "matrix"), [(32, 0.530, 0.516), (64, 0.515, 0.508), (256, 0.504, 0.502)])
def test_what_a_triangle_saves(dim, message, matrix):
    """Of a message, in which count and sums travel either way, and of the matrices by themselves."""
    model = NDConv2d(256, 8, 1, config=WhiteningConfig(block_size=dim))
    (size,), full = work_of(model, 1).moment_bytes, full_moment_bytes(model)
    assert full == 4 * (1 + 256 + 256 * dim)
    assert size / full == pytest.approx(0.5 + 1 / (dim + 1), abs=1e-4)
    assert size / full == pytest.approx(message, abs=1e-3)
    others = 4 * (1 + 256)
    assert (size - others) / (full - others) == pytest.approx(0.5 + 0.5 / dim)
    assert (size - others) / (full - others) == pytest.approx(matrix, abs=1e-3)


def test_a_sum_over_one_gpu_costs_nothing():
    plan = predict(Work(0.1, 10**8, (1000, 1000)), Cluster(1))
    assert (plan.seconds, plan.efficiency, plan.collectives, plan.bytes_sent) == (0.1, 1.0, 0, 0)


def test_a_step_of_64_gpus():
    cluster = Cluster(64, 8, link=10e9, inside=100e9, latency=1e-5, latency_inside=1e-6)
    hops = 2 * (3 * 1e-6 + 3 * 1e-5)
    assert cluster.sum_seconds(10**8) == pytest.approx(hops + 2 * 63 / 64 * 0.01)
    work = Work(0.02, 10**8, (10**6, 10**6), backward_share=0.5)
    plan = predict(work, cluster)
    gradients = hops + 2 * 63 / 64 * 0.01 - 0.01
    moments = 2 * (hops + 2 * 63 / 64 * 1e-4)
    assert plan.seconds == pytest.approx(0.02 + gradients + moments)
    assert plan.collectives == 2
    assert plan.bytes_sent == pytest.approx(2 * 63 / 64 * (10**8 + 2 * 10**6))
    beside = predict(work, cluster, overlapped=True)
    assert (beside.moments, beside.collectives) == (0, 1)
    assert plan.efficiency < beside.efficiency < 1


@pytest.mark.parametrize(("text", "speed"), [("200Gb", 25e9), ("25GB", 25e9), ("100 Mb", 12.5e6), ("1.5GB/s", 1.5e9)])
def test_link_speeds(text, speed):
    assert link_speed(text) == speed


@pytest.mark.parametrize("text", ["200", "0Gb", "fast"])
def test_unknown_link_speeds(text):
    with pytest.raises(ValueError, match=r"--link .*200Gb"):
        link_speed(text)


def test_gpus_that_do_not_divide():
    with pytest.raises(ValueError, match="--gpus 10 do not divide evenly among --nodes 4"):
        Cluster(10, 4)


def test_a_network_of_meta_tensors_is_enough():
    with torch.device("meta"):
        assert work_of(nn.Linear(3, 5), 1).gradient_bytes == 80
