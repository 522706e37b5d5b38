"""``"every=T"``: all layers of a model stay in step, whatever happens in the middle of a forward pass."""

import contextlib
import copy
from pathlib import Path

import pytest
import torch
from stale_nets import assert_equal_buffers, batch, make_net
from torch import nn

from ndpp_dense import WhiteningConfig, convert_to_ndpp, freeze_stats, micro_batch_of_step, nd_layers

PERIOD = 3


def make():
    return make_net(f"every={PERIOD}")


def phases(model):
    return [int(layer.whitening.turns.phase) for _, layer in nd_layers(model)]


def fail(model, x, error=ZeroDivisionError):
    def broken(*_):
        raise error

    handle = model[1][0].register_forward_hook(broken)
    try:
        with pytest.raises(error):
            model(x)
    finally:
        handle.remove()


@pytest.mark.parametrize("error", [ZeroDivisionError, torch.OutOfMemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("broken", [(0,), (1,), (2,), (3,), (1, 2), (0, 1), (0, 3), (2, 5)])
def test_a_step_that_raises_is_a_step_of_all_layers(broken, error):
    model = make()
    for step in range(3 * PERIOD):
        fail(model, batch(step), error) if step in broken else model(batch(step))
        assert phases(model) == [(2 - step) % PERIOD] * len(phases(model))
    assert all(layer.whitening.running_weight > 0 for _, layer in nd_layers(model))


def test_layers_behind_an_error_in_the_first_step_take_statistics_in_the_next():
    model, twin = make(), make()
    fail(model, batch(0))
    model(batch(1)), twin(batch(0)), twin(batch(1))
    weights = [float(layer.whitening.running_weight) for _, layer in nd_layers(model)]
    assert weights == [float(layer.whitening.running_weight) for _, layer in nd_layers(twin)]


def test_a_first_step_without_usable_rows_is_made_good_in_the_next():
    model = make()
    model(batch(0)[:0])
    assert phases(model) == [2] * 4
    model(batch(1))
    assert phases(model) == [1] * 4
    assert all(layer.whitening.running_weight > 0 for _, layer in nd_layers(model))


def test_layers_run_past_the_model_after_an_error_count_their_own_runs():
    model = make()
    model(batch(0))
    fail(model, batch(1))
    for left in (0, 2, 1):
        model[0](batch(2))
        assert phases(model)[:2] == [left] * 2
    model(batch(3))
    assert len(set(phases(model))) == 1  # and agree again


@pytest.mark.parametrize("apart", ["frozen", "held", "left out", "loaded"])
def test_layers_that_got_out_of_step_come_back(apart):
    model = make()
    model(batch(0))
    if apart == "frozen":
        freeze_stats(model[0])
        model(batch(1))
        freeze_stats(model[0], False)
    elif apart == "held":
        model[1][1].whitening.hold()
        model(batch(1))
        model[1][1].whitening.release()
    elif apart == "left out":
        model[0](batch(1))
    else:
        state = model.state_dict()
        state["0.0.whitening.turns.phase"] += 1
        model.load_state_dict(state)
    weights = []
    for step in range(2, 2 + 2 * PERIOD):
        before = [float(layer.whitening.running_weight) for _, layer in nd_layers(model)]
        model(batch(step))
        moved = [
            float(layer.whitening.running_weight) != old
            for (_, layer), old in zip(nd_layers(model), before, strict=True)
        ]
        weights.append(moved)
        assert len(set(moved)) == 1, step
    assert sum(moved[0] for moved in weights) == 2


class _Optional(nn.Module):
    """A head that may be left out, and a body that runs twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Conv2d(4, 4, 1), nn.Linear(4, 2)
        convert_to_ndpp(self, WhiteningConfig(schedule=f"every={PERIOD}"), {"*": True})
        self.double()

    def forward(self, x, head):
        y = self.body(self.body(x)).mean((2, 3))
        return self.head(y) if head else y


def test_layers_that_are_left_out_or_run_twice_count_the_steps_of_the_model():
    model = _Optional()
    for step in range(2 * PERIOD):
        model(batch(step), head=step not in (1, 3))
        assert phases(model) == [(2 - step) % PERIOD] * 2


def test_a_model_inside_a_model_does_not_count_twice():
    inner = make()
    outer = nn.Sequential(inner, nn.Linear(2, 3, dtype=torch.float64))
    convert_to_ndpp(outer, WhiteningConfig(schedule=f"every={PERIOD}"), {"*": True})
    for step in range(PERIOD + 1):
        outer(batch(step))
        assert phases(outer) == [(2 - step) % PERIOD] * 5
    inner(batch(9))  # alone it does
    assert phases(outer) == [1] * 4 + [2]


@pytest.mark.parametrize("broken", [0, 1])
def test_micro_batches_that_raise(broken):
    model = make()
    for step in range(2 * PERIOD):
        with contextlib.suppress(ZeroDivisionError):
            for index in range(2):
                with micro_batch_of_step(model, index, 2):
                    if step == 1 and index == broken:
                        fail(model, batch(step))
                        raise ZeroDivisionError
                    model(batch(step)[4 * index : 4 * index + 4])
        assert phases(model) == [(2 - step) % PERIOD] * 4
    assert not any(layer.whitening.held for _, layer in nd_layers(model))


def test_checkpoints_after_an_error_go_on_alike():
    model = make()
    model(batch(0)), fail(model, batch(1))
    twin = make()
    twin.load_state_dict(model.state_dict())
    copied = copy.deepcopy(model)
    for step in range(2, 6):
        for own in (model, twin, copied):
            own(batch(step))
    assert_equal_buffers(model, twin)
    assert_equal_buffers(model, copied)


def test_a_rank_that_raises_stays_in_step_with_the_other(run_ranks):
    first, second = run_ranks(Path(__file__).with_name("steps_worker.py"))
    assert first["phases"] == second["phases"] == [[(2 - step) % PERIOD] * 4 for step in range(len(first["phases"]))]
    for name, value in first["state"].items():
        torch.testing.assert_close(second["state"][name], value, rtol=0, atol=0, msg=name)
