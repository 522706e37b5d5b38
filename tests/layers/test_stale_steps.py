"""Which layers take part in a step of the stale schedule, and what is no step."""

import copy

import pytest
import torch
from stale_nets import assert_equal_buffers, batch, descend, make_net, train
from torch import nn

from ndpp_dense import (
    WhiteningConfig,
    convert_to_ndpp,
    fold_ndpp,
    update_stats,
)
from ndpp_dense.layers.statistics import exchange
from ndpp_dense.layers.statistics.steps import settle_stats, unwatch_steps, watch_steps

STALE = WhiteningConfig(schedule="stale")


@pytest.fixture(params=["one by one", "together"])
def batching(request, monkeypatch):
    """How the CPU computes what has arrived, and how CUDA does."""
    if request.param == "together":
        original = exchange._batches
        monkeypatch.setattr(exchange, "_batches", lambda states, device: original(states, torch.device("cuda")))
        monkeypatch.setattr(exchange, "_is_local", lambda state: False)


class _Pyramid(nn.Module):
    """One layer shared by levels, and a head that may be left out."""

    def __init__(self, schedule):
        super().__init__()
        torch.manual_seed(0)
        self.shared, self.head = nn.Conv2d(4, 4, 1), nn.Linear(4, 2)
        convert_to_ndpp(self, WhiteningConfig(schedule=schedule, sampling_stride=1), {"*": True})
        self.double()

    def forward(self, levels, head=True):
        maps = [self.shared(level) for level in levels]
        return self.head(torch.cat([y.mean((2, 3)) for y in maps])) if head else maps[0]


def test_a_layer_that_runs_several_times_takes_all_rows_as_one_step():
    model, pooled = _Pyramid("stale"), _Pyramid("stale")
    for step in range(4):
        levels = [batch(step), batch(step + 10), batch(step + 20)]
        model(levels if step else [torch.cat(levels)])
        pooled([torch.cat(levels)])
    assert_equal_buffers(model, pooled)


def test_a_layer_that_does_not_run_keeps_its_statistics():
    model = _Pyramid("stale")
    model([batch(0)]), model([batch(1)])
    settle_stats(model)
    before = copy.deepcopy(dict(model.named_buffers()))
    model([batch(2)], head=False)
    settle_stats(model)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]) == name.startswith("head."), name
    assert torch.isfinite(model([batch(3)])).all()


def test_what_a_layer_saw_before_it_was_left_out_counts(batching):
    model, twin = _Pyramid("stale"), _Pyramid("stale")
    for step in range(4):
        for network in (model, twin):
            network([batch(step)], head=step != 2)
        settle_stats(twin)
    settle_stats(model)
    assert_equal_buffers(model, twin)


def test_layers_that_run_past_the_model_are_steps_of_their_own():
    model, twin = make_net(), make_net()
    for step in range(4):
        y = model(batch(step)) if step < 2 else model[1](model[0](batch(step)))
        torch.testing.assert_close(y, twin(batch(step)))
    assert_equal_buffers(model, twin)


def test_a_model_that_is_part_of_another_is_a_step_of_its_own():
    inner, twin = make_net(), make_net()
    outer = nn.Sequential(inner, nn.Linear(2, 3, dtype=torch.float64))
    convert_to_ndpp(outer, STALE, {"*": True})
    for step in range(4):
        outer(batch(step)), twin(batch(step))
    settle_stats(outer)
    assert outer[1].whitening.running_weight > 0.3  # 1 - 0.9^4
    assert_equal_buffers(inner, twin)


def test_a_step_that_failed_leaves_nothing_behind():
    model, twin = make_net(), make_net()
    model(batch(0)), twin(batch(0))
    handle = model[1].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(batch(5))
    handle.remove()
    for step in (1, 2):
        torch.testing.assert_close(model(batch(step)), twin(batch(step)), rtol=0, atol=0)
    assert_equal_buffers(model, twin)


def test_without_usable_rows_a_layer_stays_fresh():
    model, twin = make_net(), make_net("fresh")
    for x in (torch.zeros(0, 4, 6, 6).double(), torch.full((8, 4, 6, 6), float("nan")).double(), batch(0)):
        y, z = model(x), twin(x)
        assert y.shape == z.shape
    torch.testing.assert_close(y, z)  # D of this step, not I
    assert_equal_buffers(model, twin)


@pytest.mark.parametrize("bad", ["inf", "nan", "1e300", "empty"])
def test_a_step_without_usable_rows_changes_nothing(bad, batching):
    model = make_net(block_size=2, local_scale="none")
    model(batch(0)), model(batch(1))
    settle_stats(model)
    before = copy.deepcopy(dict(model.named_buffers()))
    broken = batch(2)[:0] if bad == "empty" else batch(2)
    broken.view(-1)[:1] = 1.0 if bad == "empty" else float(bad)
    seen = []
    handle = model[1][1].register_forward_pre_hook(lambda m, args: (batch(2)[:, :, :2, :2],))
    model(broken)  # the layers of the head get good input all the same
    handle.remove()
    settle_stats(model)
    for name, buffer in model.named_buffers():
        assert torch.isfinite(buffer).all(), name
        first = name.startswith("0.0")
        seen.append(torch.equal(buffer, before[name]))
        assert not first or seen[-1], f"{name} moved"
    assert not all(seen)


def test_update_stats_is_that_of_fresh():
    model, twin = make_net(), make_net("fresh")
    train(model, range(3))
    twin.load_state_dict(model.state_dict())
    model(batch(3))  # under way, and not to count
    for own in (model, twin):
        assert update_stats(own, [batch(5), batch(6)]) == 2
    assert_equal_buffers(model, twin)


def test_checkpoints_are_those_of_fresh():
    fresh, stale, every = (make_net(schedule) for schedule in ("fresh", "stale", "every=2"))
    assert stale.state_dict().keys() == fresh.state_dict().keys()
    train(every, range(2))
    for source, target in ((every, stale), (stale, fresh), (fresh, every)):
        target.load_state_dict(source.state_dict())
        torch.testing.assert_close(target.eval()(batch(9)), source.eval()(batch(9)))


def test_only_stale_models_are_watched_and_folded_ones_are_not():
    model = make_net()
    watch_steps(model)  # again
    assert (len(model._forward_pre_hooks), len(model._forward_hooks)) == (1, 2)
    assert not make_net("fresh")._forward_hooks
    folded = fold_ndpp(model)
    assert not folded._forward_pre_hooks
    assert not folded._forward_hooks
    other = model.register_forward_hook(lambda *_: None)
    unwatch_steps(model)
    assert list(model._forward_hooks) == [other.id]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch.compile itself, after a graph break
def test_compiled_training_is_plain_training():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    convert_to_ndpp(plain.double(), STALE, {"*": True})
    twin = copy.deepcopy(plain)
    compiled = torch.compile(twin, backend="eager")
    for step in range(6):
        y, z = plain(batch(step)), compiled(batch(step))
        torch.testing.assert_close(z, y)
        for out, own in ((y, plain), (z, twin)):
            out.square().sum().backward()
            descend(own)
        if step == 2:  # the first step is one of its own
            graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    assert_equal_buffers(twin, plain)
