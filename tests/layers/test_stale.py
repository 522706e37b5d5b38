"""Statistics of the step before: which moments count when, and that nothing that happens in between changes it."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ndpp_dense import (
    WhiteningConfig,
    convert_to_ndpp,
    fold_ndpp,
    freeze_stats,
    hold_stats,
    nd_layers,
    synchronize_stats,
    update_stats,
)
from ndpp_dense.evaluation_stats import EvaluationStats
from ndpp_dense.layers import flight
from ndpp_dense.layers.steps import settle_stats, unwatch_steps, watch_steps

STALE = WhiteningConfig(schedule="stale")
STEPS = 6


def _net(schedule="stale", **fields):
    torch.manual_seed(0)
    body = [nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, 2)]
    head = [nn.Tanh(), nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
    model = nn.Sequential(nn.Sequential(*body), nn.Sequential(*head))
    convert_to_ndpp(model, WhiteningConfig(schedule=schedule, **fields), {"*": True})
    return model.double()


def _input(step):
    return torch.randn(8, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(step)) + step


def _descend(model):
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p -= 1e-3 * p.grad
                p.grad = None


def _train(model, steps, between=lambda: None):
    """Losses of plain gradient descent; ``between`` is called between the steps."""
    losses = []
    for step in steps:
        loss = model(_input(step)).square().sum()
        loss.backward()
        _descend(model)
        losses.append(loss.item())
        between()
    return losses


class Delayed:
    """The reference: a model under ``"fresh"`` whose layers see this step's input only after the step."""

    def __init__(self, model):
        self.model, self.inputs = model, {}
        for _, layer in nd_layers(model):
            layer.register_forward_pre_hook(lambda m, args: self.inputs.setdefault(m, []).append(args[0].detach()))

    def __call__(self, x):
        started = all(layer.whitening.running_weight > 0 for _, layer in nd_layers(self.model))
        if not started:
            return self.model(x)
        self.inputs.clear()
        with hold_stats(self.model):
            y = self.model(x)
        with torch.no_grad():
            for layer, seen in list(self.inputs.items()):
                layer(torch.cat(seen))
        return y


def _assert_equal_buffers(model, other):
    settle_stats(model)
    settle_stats(other)
    expected = dict(other.named_buffers())
    assert expected
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, expected[name], msg=lambda m, name=name: f"{name}: {m}")


@pytest.fixture(params=["one by one", "together"])
def batching(request, monkeypatch):
    """How the CPU computes what has arrived, and how CUDA does."""
    if request.param == "together":
        original = flight._batches
        monkeypatch.setattr(flight, "_batches", lambda states, device: original(states, torch.device("cuda")))


@pytest.mark.parametrize("fields", [{}, {"shared_blocks": True, "block_size": 2}, {"momentum": 0.7, "block_size": 2}])
def test_a_step_uses_the_statistics_of_the_steps_before(fields, batching):
    model, twin = _net(**fields), _net("fresh", **fields)
    delayed = Delayed(twin)
    for step in range(STEPS):
        outputs = [run(_input(step)) for run in (model, delayed)]
        torch.testing.assert_close(*outputs)
        for y, own in zip(outputs, (model, twin), strict=True):
            y.square().sum().backward()
            _descend(own)
    _assert_equal_buffers(model, twin)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_a_layer_after_k_steps_is_where_fresh_is_after_one_less(kind):
    make, shape = kind
    fresh, stale = (make(WhiteningConfig(schedule=schedule)) for schedule in ("fresh", "stale"))
    for step in range(STEPS):
        x = torch.randn(9, *shape, generator=torch.Generator().manual_seed(step)) + step
        before = {name: buffer.clone() for name, buffer in fresh.named_buffers()}
        fresh(x)
        stale(x)
        for name, buffer in stale.named_buffers():
            expected = before[name] if step else fresh.get_buffer(name)  # the first step is that of "fresh"
            torch.testing.assert_close(buffer, expected, rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resume_is_exact_to_the_bit(stop):
    model = _net()
    losses = _train(model, range(STEPS))
    first = _net()
    resumed = _train(first, range(stop))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = _net()
    _train(second, [7, 8])  # moments of the second are under way when the checkpoint comes
    second.load_state_dict(torch.load(file), assign=stop == 2)
    resumed += _train(second, range(stop, STEPS))
    assert resumed == losses
    for name, value in model.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def _lend(model):
    stats = EvaluationStats(model, lambda seed: iter([_input(seed)]), 1)

    def between():
        stats.lend()
        model.eval()(_input(9))
        model.train()
        stats.take_back()

    return between


BETWEEN = {
    "saving": lambda model: model.state_dict,
    "evaluating": lambda model: lambda: (model.eval()(_input(9)), model.train()),
    "lending": _lend,
    "copying": lambda model: lambda: copy.deepcopy(model),
    "pickling": lambda model: lambda: pickle.loads(pickle.dumps(model)),
    "casting": lambda model: lambda: model.to(torch.float64),
    "settling": lambda model: lambda: settle_stats(model),
    "freezing": lambda model: lambda: (freeze_stats(model), model(_input(9)), freeze_stats(model, False)),
    "synchronizing": lambda model: lambda: synchronize_stats(model),
    "holding": lambda model: lambda: _held(model, 9),
    "reading a part": lambda model: lambda: model[1].state_dict(),
}


def _held(model, step):
    with hold_stats(model):
        return model(_input(step))


@pytest.mark.parametrize("what", BETWEEN)
@pytest.mark.parametrize("momentum", [0.1, 0.7])
def test_what_happens_between_steps_changes_nothing(what, momentum):
    model = _net(momentum=momentum)  # from 0.5 on statistics are estimated anew when they are lent
    undisturbed = _net(momentum=momentum)
    assert _train(model, range(STEPS), BETWEEN[what](model)) == _train(undisturbed, range(STEPS))
    _assert_equal_buffers(model, undisturbed)


def test_evaluation_folding_and_checkpoints_see_all_steps():
    model, twin = _net(), _net("fresh")
    delayed = Delayed(twin)
    for step in range(3):
        model(_input(step)), delayed(_input(step))
    copied = copy.deepcopy(model)
    expected = twin.eval()(_input(9))
    torch.testing.assert_close(fold_ndpp(model)(_input(9)), expected)
    saved = model.state_dict()
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(saved[name], value, msg=lambda m, n=name: f"{n}: {m}")
    copied(_input(2))
    twin.train(), delayed(_input(2)), twin.eval()
    torch.testing.assert_close(copied.eval()(_input(9)), twin(_input(9)))
    assert all(layer.whitening.flight is None for _, layer in nd_layers(copied))


def test_copies_go_on_alike():
    model = _net()
    _train(model, range(2))
    twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    losses = _train(model, range(2, STEPS))
    assert [_train(twin, range(2, STEPS)) for twin in twins] == [losses, losses]


def test_portions_of_a_step_use_the_same_statistics_and_the_first_moves_them():
    model, twin = _net(), _net()
    model(_input(0)), twin(_input(0))
    twin(_input(1))
    y = model(_input(1))
    torch.testing.assert_close(_held(model, 1), y, rtol=0, atol=0)
    _assert_equal_buffers(model, twin)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("part", ["all", "body"])
def test_recomputation_is_no_step(reentrant, part):
    plain, checkpointed = _net(), _net()
    body = checkpointed[0]
    if part == "body":
        checkpointed[0] = _Checkpointed(body, reentrant)
    for step in range(4):
        x = _input(step).requires_grad_()
        plain(x).square().sum().backward()
        y = checkpointed(x) if part == "body" else checkpoint(checkpointed, x, use_reentrant=reentrant)
        y.square().sum().backward()
        for p, q in zip(plain.parameters(), checkpointed.parameters(), strict=True):
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-7, atol=1e-9)
    checkpointed[0] = body
    _assert_equal_buffers(checkpointed, plain)


class _Checkpointed(nn.Module):
    def __init__(self, body, reentrant):
        super().__init__()
        self.body, self.reentrant = body, reentrant

    def forward(self, x):
        return checkpoint(self.body, x, use_reentrant=self.reentrant)


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
        levels = [_input(step), _input(step + 10), _input(step + 20)]
        model(levels if step else [torch.cat(levels)])
        pooled([torch.cat(levels)])
    _assert_equal_buffers(model, pooled)


def test_a_layer_that_does_not_run_keeps_its_statistics():
    model = _Pyramid("stale")
    model([_input(0)]), model([_input(1)])
    settle_stats(model)
    before = copy.deepcopy(dict(model.named_buffers()))
    model([_input(2)], head=False)
    settle_stats(model)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]) == name.startswith("head."), name
    assert torch.isfinite(model([_input(3)])).all()


def test_layers_that_run_past_the_model_are_steps_of_their_own():
    model, twin = _net(), _net()
    for step in range(4):
        y = model(_input(step)) if step < 2 else model[1](model[0](_input(step)))
        torch.testing.assert_close(y, twin(_input(step)))
    _assert_equal_buffers(model, twin)


def test_a_model_that_is_part_of_another_is_a_step_of_its_own():
    inner, twin = _net(), _net()
    outer = nn.Sequential(inner, nn.Linear(2, 3, dtype=torch.float64))
    convert_to_ndpp(outer, STALE, {"*": True})
    for step in range(4):
        outer(_input(step)), twin(_input(step))
    settle_stats(outer)
    assert outer[1].whitening.running_weight > 0.3  # 1 - 0.9^4
    _assert_equal_buffers(inner, twin)


def test_a_step_that_failed_leaves_nothing_behind():
    model, twin = _net(), _net()
    model(_input(0)), twin(_input(0))
    handle = model[1].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(_input(5))
    handle.remove()
    for step in (1, 2):
        torch.testing.assert_close(model(_input(step)), twin(_input(step)), rtol=0, atol=0)
    _assert_equal_buffers(model, twin)


def test_without_usable_rows_a_layer_stays_fresh():
    model, twin = _net(), _net("fresh")
    for x in (torch.zeros(0, 4, 6, 6).double(), torch.full((8, 4, 6, 6), float("nan")).double(), _input(0)):
        y, z = model(x), twin(x)
        assert y.shape == z.shape
    torch.testing.assert_close(y, z)  # D of this step, not I
    _assert_equal_buffers(model, twin)


@pytest.mark.parametrize("bad", ["inf", "nan", "1e300", "empty"])
def test_a_step_without_usable_rows_changes_nothing(bad, batching):
    model = _net(block_size=2, local_scale="none")
    model(_input(0)), model(_input(1))
    settle_stats(model)
    before = copy.deepcopy(dict(model.named_buffers()))
    broken = _input(2)[:0] if bad == "empty" else _input(2)
    broken.view(-1)[:1] = 1.0 if bad == "empty" else float(bad)
    seen = []
    handle = model[1][1].register_forward_pre_hook(lambda m, args: (_input(2)[:, :, :2, :2],))
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
    model, twin = _net(), _net("fresh")
    _train(model, range(3))
    twin.load_state_dict(model.state_dict())
    model(_input(3))  # under way, and not to count
    for own in (model, twin):
        assert update_stats(own, [_input(5), _input(6)]) == 2
    _assert_equal_buffers(model, twin)


def test_checkpoints_are_those_of_fresh():
    fresh, stale, every = (_net(schedule) for schedule in ("fresh", "stale", "every=2"))
    assert stale.state_dict().keys() == fresh.state_dict().keys()
    _train(every, range(2))
    for source, target in ((every, stale), (stale, fresh), (fresh, every)):
        target.load_state_dict(source.state_dict())
        torch.testing.assert_close(target.eval()(_input(9)), source.eval()(_input(9)))


def test_only_stale_models_are_watched_and_folded_ones_are_not():
    model = _net()
    watch_steps(model)  # again
    assert (len(model._forward_pre_hooks), len(model._forward_hooks)) == (1, 1)
    assert not _net("fresh")._forward_hooks
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
        y, z = plain(_input(step)), compiled(_input(step))
        torch.testing.assert_close(z, y)
        for out, own in ((y, plain), (z, twin)):
            out.square().sum().backward()
            _descend(own)
        if step == 2:  # the first step is one of its own
            graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    _assert_equal_buffers(twin, plain)
