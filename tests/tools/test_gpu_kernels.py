"""What the kernels of a step are counted to."""

from types import SimpleNamespace

import pytest
from bench.case import Settings, images, training_step
from bench.gpu import kernels as gpu_kernels
from bench.gpu.kernels import kernels_of, launched, summary
from bench.profile import PARTS
from torch import nn

from ndpp_dense import NDConv2d, WhiteningConfig


def _event(name, start, parent=None, sequence=-1, kernels=()):
    found = [SimpleNamespace(name=name, duration=duration) for name, duration in kernels]
    time_range = SimpleNamespace(start=start)
    return SimpleNamespace(name=name, time_range=time_range, cpu_parent=parent, sequence_nr=sequence, kernels=found)


def test_kernels_count_to_the_part_that_launched_them_and_backward_to_that_of_its_forward():
    mark = _event("part: solver", 0)
    # An operation without a node bears the number of the next one that has a node: the later counts.
    early = _event("aten::detach", 1, None, 7)
    solve = _event("aten::bmm", 2, mark, 7, [("gemm", 30.0), ("part: solver", 99.0), ("Memcpy DtoD", 5.0)])
    relu = _event("aten::relu", 3, None, 8, [("relu", 10.0)])
    node = _event("autograd::engine::evaluate_function: BmmBackward0", 4, None, 7)
    back = _event("aten::bmm", 5, node, -1, [("gemm", 50.0)])
    other = _event("autograd::engine::evaluate_function: ReluBackward0", 6, None, 8)
    last = _event("aten::threshold_backward", 7, other, -1, [("relu", 10.0)])
    wait = _event("cudaStreamSynchronize", 8)
    events = [mark, early, solve, relu, node, back, other, last, wait]
    found = summary(events, [leaf for event in events for leaf in launched(event)])
    assert (found["kernels"], found["copies"], found["waits"]) == (4, 1, 1)
    assert found["kernels_s"] == pytest.approx(100e-6)
    assert {part: share for part, share in found["shares"].items() if share} == pytest.approx(
        {"solver": 0.8, "rest": 0.2}
    )
    assert found["longest"] == [["gemm", 2, pytest.approx(80e-6)], ["relu", 2, pytest.approx(20e-6)]]


def test_a_step_without_kernels_has_no_shares():
    found = summary([], [])
    assert found["kernels"] == 0
    assert set(found["shares"].values()) == {None}


@pytest.mark.filterwarnings("ignore::UserWarning:torch.profiler")
def test_operations_of_every_part_of_a_real_step_are_seen():
    model = nn.Sequential(NDConv2d(4, 8, 3, config=WhiteningConfig.paper("imagenet")), nn.ReLU())
    settings = Settings(rehearse=True)
    found = kernels_of(training_step(model, images(2, 24, settings, 4), settings), settings)
    assert found["are"] == "operations"
    shares = found["shares"]
    assert set(shares) == {*PARTS, gpu_kernels.REST}
    assert sum(shares.values()) == pytest.approx(1)
    assert all(shares[part] > 0 for part in ("moments", "solver", "D·w", "convolution", "local scale", "rest"))
    assert found["step_s"] >= found["host_s"] > 0
    assert len(found["longest"]) == len(found["most_frequent"]) == gpu_kernels.LISTED
