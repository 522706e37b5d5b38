"""Gradient accumulation: which rows move the statistics, and that micro_batches are one batch under ``"stale"``."""

import copy
import pickle

import pytest
import torch
from stale_nets import assert_equal_buffers, batch, descend, lend, make_net

from ndpp_dense import freeze_stats, micro_batch_of_step, micro_batches_of_step, nd_layers, update_stats
from ndpp_dense.layers.statistics.steps import settle_stats

STEPS = 5
CUTS = {"two": [4, 4], "four": [2, 2, 2, 2], "uneven": [1, 5, 2], "one without samples": [0, 8]}


def make(schedule="stale", **fields):
    """Few rows: every fifth of 6 x 6 positions makes 32 of a batch, of the 36 columns that a 3 x 3 kernel has."""
    return make_net(schedule, **{"sampling_stride": 5, **fields})


def losses_of_micro_batches(model, x, cut, between=lambda: None):
    parts = x.split(cut)
    for part, statistics in zip(parts, micro_batches_of_step(model, len(parts), lambda: model(x)), strict=True):
        with statistics:
            loss = model(part).square().sum()
            loss.backward()
        yield loss.item()
        between()


def train(model, cut, steps=range(STEPS), between=lambda: None):
    losses = []
    for step in steps:
        losses.append(sum(losses_of_micro_batches(model, batch(step), cut, between)))
        descend(model)
    return losses


def assert_same(model, other):
    assert_equal_buffers(model, other)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("shared", [True, False])
def test_micro_batches_are_one_batch(cut, shared):
    whole, parts = (make(sampling_stride=1, shared_blocks=shared) for _ in range(2))
    assert train(parts, CUTS[cut]) == pytest.approx(train(whole, [8]), rel=1e-9)
    assert_same(parts, whole)


@pytest.mark.parametrize("cut", ["two", "four"])
def test_equal_micro_batches_with_few_rows_are_one_batch(cut):
    """Whether rows are sampled more densely is decided by what all micro-batches have, were they as large."""
    whole, parts = make(), make()
    assert train(parts, CUTS[cut]) == pytest.approx(train(whole, [8]), rel=1e-9)
    assert_same(parts, whole)


def test_under_fresh_the_first_micro_batch_moves_the_statistics_and_all_use_them():
    model, twin = make("fresh"), make("fresh")
    list(losses_of_micro_batches(model, batch(0), [2, 6]))
    twin(batch(0)[:2])
    assert_equal_buffers(model, twin)
    whole = make("fresh")
    whole(batch(0))
    assert not torch.allclose(whole[0][0].whitening.running_cov, model[0][0].whitening.running_cov, rtol=1e-3)


def test_alone_the_first_step_takes_the_statistics_of_its_first_micro_batch():
    model, twin = make(), make()
    for index, part in enumerate(batch(0).split(4)):
        with micro_batch_of_step(model, index, 2):
            model(part)
    twin(batch(0)[:4])
    assert_equal_buffers(model, twin)


BETWEEN = {
    "evaluating": lambda model: lambda: (model.eval()(batch(9)), model.train()),
    "lending": lend,
    "saving": lambda model: model.state_dict,
    "copying": lambda model: lambda: pickle.loads(pickle.dumps(copy.deepcopy(model))),
    "settling": lambda model: lambda: settle_stats(model),
    "freezing": lambda model: lambda: (freeze_stats(model), model(batch(9)), freeze_stats(model, False)),
}


@pytest.mark.parametrize("what", BETWEEN)
@pytest.mark.parametrize("momentum", [0.1, 0.7])  # from 0.5 on statistics are estimated anew when they are lent
def test_what_happens_between_micro_batches_changes_nothing(what, momentum):
    model, undisturbed = make(momentum=momentum), make(momentum=momentum)
    assert train(model, [3, 5], between=BETWEEN[what](model)) == train(undisturbed, [3, 5])
    assert_equal_buffers(model, undisturbed)


@pytest.mark.parametrize("broken", [0, 1])
def test_a_step_that_fails_between_its_micro_batches_leaves_nothing_behind(broken):
    model, twin = make(), make()
    train(model, [4, 4], [0]), train(twin, [4, 4], [0])
    for index in range(broken):
        with micro_batch_of_step(model, index, 3):
            model(batch(8))
    handle = model[1].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), micro_batch_of_step(model, broken, 3):
        model(batch(9))
    handle.remove()
    steps = range(1, STEPS)
    assert train(model, [4, 4], steps) == train(twin, [4, 4], steps)
    assert_same(model, twin)


def test_a_step_that_was_given_up_leaves_nothing_behind():
    model, twin = make(), make()
    train(model, [8], [0]), train(twin, [8], [0])
    with micro_batch_of_step(model, 0, 3):
        model(batch(8))
    assert train(model, [8], [1, 2]) == train(twin, [8], [1, 2])
    assert_same(model, twin)


def test_layers_that_run_past_the_model_and_twice_a_micro_batch():
    model, twin = make(sampling_stride=1), make(sampling_stride=1)
    train(model, [8], [0]), train(twin, [8], [0])
    for index in range(2):
        with micro_batch_of_step(model, index, 2):
            for part in batch(1)[4 * index : 4 * index + 4].split(2):
                model[1](model[0](part))
    twin(batch(1))
    assert_equal_buffers(model, twin)
    assert all(layer.whitening.micro_batches == 1 for _, layer in nd_layers(model))


def test_frozen_layers_stay_as_they_are_and_others_go_on():
    model = make()
    train(model, [8], [0])
    settle_stats(model)
    freeze_stats(model[0])
    before = copy.deepcopy(dict(model.named_buffers()))
    train(model, [4, 4], [1])
    settle_stats(model)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]) == name.startswith("0."), name


def test_held_comes_back_as_it_was_and_update_stats_too():
    model, twin = make(), make()
    train(model, [4, 4]), train(twin, [8])
    assert not any(layer.whitening.held for _, layer in nd_layers(model))
    for own in (model, twin):
        update_stats(own, [batch(5), batch(6)])
    assert_equal_buffers(model, twin)


def test_the_pass_before_the_first_step_draws_no_random_numbers():
    model = make()
    torch.manual_seed(3)
    micro_batches_of_step(model, 2, lambda: (torch.rand(7), model(batch(0))))
    drawn = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(3))
    assert all(layer.whitening.running_weight > 0 for _, layer in nd_layers(model))


@pytest.mark.parametrize(("index", "count"), [(2, 2), (-1, 2), (0, 0)])
def test_micro_batches_that_do_not_exist(index, count):
    with (
        pytest.raises(ValueError, match=f"micro-batch {index} of {count} does not exist"),
        micro_batch_of_step(make(), index, count),
    ):
        pass


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch.compile itself, after a graph break
def test_compiled_micro_batches_are_plain_ones():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain = make()
    twin = copy.deepcopy(plain)
    compiled = torch.compile(twin, backend="eager")
    graphs = []
    for step in range(4):
        for index, part in enumerate(batch(step).split(2)):
            for run, own in ((plain, plain), (compiled, twin)):
                with micro_batch_of_step(own, index, 4):
                    run(part).square().sum().backward()
        descend(plain), descend(twin)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[-1] == graphs[-2]
    assert_same(twin, plain)
