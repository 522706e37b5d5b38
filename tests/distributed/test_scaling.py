"""Batch, learning rate and loader processes by the number of processes."""

import pytest

from ndpp_dense.distributed.scaling import Scaling, loader_processes


def test_the_linear_rule():
    scaling = Scaling(8, 2)
    assert (scaling.factor, scaling.batch(16), scaling.steps(90000), scaling.steps(0)) == (0.25, 4, 360000, 0)
    assert Scaling(1, 8).steps(3) == 1
    assert str(scaling) == "scaled from 8 to 2 process(es)"


def test_a_batch_that_is_not_for_so_many():
    with pytest.raises(ValueError, match="--auto-scale 3: a batch of 16 does not split evenly"):
        Scaling(3, 6).batch(16)


def test_loader_processes_have_a_core_each(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(16)), raising=False)
    assert [loader_processes(wanted, ranks) for wanted, ranks in ((4, 2), (4, 8), (4, 64), (0, 2))] == [4, 2, 1, 0]
