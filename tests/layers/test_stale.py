"""Statistics of the step before: which moments count when, and that nothing that happens in between changes it."""

import copy
import io
import pickle

import pytest
import torch
from stale_nets import assert_equal_buffers, batch, descend, lend, make_net, train
from torch import nn
from torch.utils.checkpoint import checkpoint

from ndpp_dense import (
    WhiteningConfig,
    fold_ndpp,
    freeze_stats,
    hold_stats,
    nd_layers,
    synchronize_stats,
)
from ndpp_dense.layers.statistics import exchange
from ndpp_dense.layers.statistics.steps import settle_stats

STALE = WhiteningConfig(schedule="stale")
STEPS = 6


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


@pytest.fixture(params=["one by one", "together"])
def batching(request, monkeypatch):
    """How the CPU computes what has arrived, and how CUDA does."""
    if request.param == "together":
        original = exchange._batches
        monkeypatch.setattr(exchange, "_batches", lambda states, device: original(states, torch.device("cuda")))
        monkeypatch.setattr(exchange, "_is_local", lambda state: False)


@pytest.mark.parametrize("fields", [{}, {"shared_blocks": True, "block_size": 2}, {"momentum": 0.7, "block_size": 2}])
def test_a_step_uses_the_statistics_of_the_steps_before(fields, batching):
    model, twin = make_net(**fields), make_net("fresh", **fields)
    delayed = Delayed(twin)
    for step in range(STEPS):
        outputs = [run(batch(step)) for run in (model, delayed)]
        torch.testing.assert_close(*outputs)
        for y, own in zip(outputs, (model, twin), strict=True):
            y.square().sum().backward()
            descend(own)
    assert_equal_buffers(model, twin)
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
    model = make_net()
    losses = train(model, range(STEPS))
    first = make_net()
    resumed = train(first, range(stop))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = make_net()
    train(second, [7, 8])  # moments of the second are under way when the checkpoint comes
    second.load_state_dict(torch.load(file), assign=stop == 2)
    resumed += train(second, range(stop, STEPS))
    assert resumed == losses
    for name, value in model.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


BETWEEN = {
    "saving": lambda model: model.state_dict,
    "evaluating": lambda model: lambda: (model.eval()(batch(9)), model.train()),
    "lending": lend,
    "copying": lambda model: lambda: copy.deepcopy(model),
    "pickling": lambda model: lambda: pickle.loads(pickle.dumps(model)),
    "casting": lambda model: lambda: model.to(torch.float64),
    "settling": lambda model: lambda: settle_stats(model),
    "freezing": lambda model: lambda: (freeze_stats(model), model(batch(9)), freeze_stats(model, False)),
    "synchronizing": lambda model: lambda: synchronize_stats(model),
    "holding": lambda model: lambda: _held(model, 9),
    "reading a part": lambda model: lambda: model[1].state_dict(),
}


def _held(model, step):
    with hold_stats(model):
        return model(batch(step))


@pytest.mark.parametrize("what", BETWEEN)
@pytest.mark.parametrize("momentum", [0.1, 0.7])
def test_what_happens_between_steps_changes_nothing(what, momentum):
    model = make_net(momentum=momentum)  # from 0.5 on statistics are estimated anew when they are lent
    undisturbed = make_net(momentum=momentum)
    assert train(model, range(STEPS), BETWEEN[what](model)) == train(undisturbed, range(STEPS))
    assert_equal_buffers(model, undisturbed)


def test_evaluation_folding_and_checkpoints_see_all_steps():
    model, twin = make_net(), make_net("fresh")
    delayed = Delayed(twin)
    for step in range(3):
        model(batch(step)), delayed(batch(step))
    copied = copy.deepcopy(model)
    expected = twin.eval()(batch(9))
    torch.testing.assert_close(fold_ndpp(model)(batch(9)), expected)
    saved = model.state_dict()
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(saved[name], value, msg=lambda m, n=name: f"{n}: {m}")
    copied(batch(2))
    twin.train(), delayed(batch(2)), twin.eval()
    torch.testing.assert_close(copied.eval()(batch(9)), twin(batch(9)))
    assert not any(layer.whitening.under_way for _, layer in nd_layers(copied))


def test_copies_go_on_alike():
    model = make_net()
    train(model, range(2))
    twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    losses = train(model, range(2, STEPS))
    assert [train(twin, range(2, STEPS)) for twin in twins] == [losses, losses]


def test_portions_of_a_step_use_the_same_statistics_and_the_first_moves_them():
    model, twin = make_net(), make_net()
    model(batch(0)), twin(batch(0))
    twin(batch(1))
    y = model(batch(1))
    torch.testing.assert_close(_held(model, 1), y, rtol=0, atol=0)
    assert_equal_buffers(model, twin)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("part", ["all", "body"])
def test_recomputation_is_no_step(reentrant, part):
    plain, checkpointed = make_net(), make_net()
    body = checkpointed[0]
    if part == "body":
        checkpointed[0] = _Checkpointed(body, reentrant)
    for step in range(4):
        x = batch(step).requires_grad_()
        plain(x).square().sum().backward()
        y = checkpointed(x) if part == "body" else checkpoint(checkpointed, x, use_reentrant=reentrant)
        y.square().sum().backward()
        for p, q in zip(plain.parameters(), checkpointed.parameters(), strict=True):
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-7, atol=1e-9)
    checkpointed[0] = body
    assert_equal_buffers(checkpointed, plain)


class _Checkpointed(nn.Module):
    def __init__(self, body, reentrant):
        super().__init__()
        self.body, self.reentrant = body, reentrant

    def forward(self, x):
        return checkpoint(self.body, x, use_reentrant=self.reentrant)
