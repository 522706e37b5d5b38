"""``torch.func.functional_call``: the buffers that are given move, and the module's own stay as they are."""

import copy

import pytest
import torch
from stale_nets import batch, make_net
from torch.func import functional_call

from ndpp_dense import NDConv2d, WhiteningConfig, micro_batch_of_step, settle_stats

STEPS = 7


def clones(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def assert_equal(buffers, expected):
    for name, buffer in buffers.items():
        assert torch.equal(buffer, expected[name]), name


def make(schedule):
    fields = {"statistics": "batch"} if schedule == "batch" else {}
    return make_net("fresh" if schedule == "batch" else schedule, **fields)


SCHEDULES = pytest.mark.parametrize("schedule", ["fresh", "batch", "every=3", "stale"])


@SCHEDULES
@pytest.mark.parametrize("own_steps", [0, 2])
def test_given_buffers_move_and_own_ones_stay(schedule, own_steps):
    model, twin = make(schedule), make(schedule)
    given = clones(model)
    for step in range(own_steps):
        model(batch(20 + step))
    settle_stats(model)
    own = clones(model)
    for step in range(STEPS):
        y, z = functional_call(model, given, (batch(step),)), twin(batch(step))
        torch.testing.assert_close(y, z, rtol=0, atol=0)
    settle_stats(model), settle_stats(twin)
    assert_equal(dict(model.named_buffers()), own)
    assert_equal(given, dict(twin.named_buffers()))


@SCHEDULES
def test_sets_of_buffers_take_turns(schedule):
    model = make(schedule)
    twins, sets = [make(schedule) for _ in range(2)], [clones(model) for _ in range(2)]
    own = make(schedule)
    for step in range(STEPS):
        for number in range(2):
            y = functional_call(model, sets[number], (batch(step + 10 * number),))
            torch.testing.assert_close(y, twins[number](batch(step + 10 * number)), rtol=0, atol=0)
        if step % 2:
            torch.testing.assert_close(model(batch(step)), own(batch(step)), rtol=0, atol=0)
    for run in (model, own, *twins):
        settle_stats(run)
    for given, twin in zip(sets, twins, strict=True):
        assert_equal(given, dict(twin.named_buffers()))
    assert_equal(dict(model.named_buffers()), dict(own.named_buffers()))


@pytest.mark.parametrize("schedule", ["every=3", "stale"])
def test_a_layer_by_itself_moves_the_given_buffers(schedule):
    torch.manual_seed(0)
    layer = NDConv2d(4, 4, 3, config=WhiteningConfig(schedule=schedule))
    twin, own, given = copy.deepcopy(layer), clones(layer), clones(layer)
    for _ in range(STEPS):
        x = torch.randn(8, 4, 6, 6)
        torch.testing.assert_close(functional_call(layer, given, (x,)), twin(x), rtol=0, atol=0)
    settle_stats(layer), settle_stats(twin)
    assert_equal(dict(layer.named_buffers()), own)
    assert_equal(given, dict(twin.named_buffers()))


def test_micro_batches_of_layers_run_past_the_model_move_the_given_buffers():
    model, twin = make("stale"), make("stale")
    model(batch(9)), twin(batch(9))
    settle_stats(model)
    given, own = clones(model), clones(model)
    part = {name.removeprefix("0."): buffer for name, buffer in given.items() if name.startswith("0.")}
    for step in range(4):
        for index in range(2):
            with micro_batch_of_step(model, index, 2):
                functional_call(model[0], part, (batch(step)[4 * index : 4 * index + 4],))
            with micro_batch_of_step(twin, index, 2):
                twin[0](batch(step)[4 * index : 4 * index + 4])
    settle_stats(model), settle_stats(twin)
    assert_equal(dict(model.named_buffers()), own)
    assert_equal(given, dict(twin.named_buffers()))
