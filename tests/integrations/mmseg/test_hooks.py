"""Evaluating, saving and resuming must leave no trace in the training; checkpoints must hold good statistics."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ndpp_dense import nd_layers
from ndpp_dense.integrations.mmengine.hooks import RANDOM_KEY, STATISTICS_KEY, _micro_batch_of, plain_model
from ndpp_dense.weights.files import read_checkpoint

pytestmark = pytest.mark.mmseg
PAPER = {"model__ndpp__preset": "paper"}


def load(runner, name):
    return read_checkpoint(Path(runner.work_dir) / name)


def with_ema(config):
    config.custom_hooks.append({"type": "EMAHook", "momentum": 0.1})
    return config


def test_evaluating_and_saving_leave_no_trace(train, same_weights):
    often = train("often", **PAPER)
    never = train("never", train_cfg__val_interval=4, default_hooks__checkpoint__interval=4, **PAPER)
    own = [load(runner, "iter_4.pth")[STATISTICS_KEY] for runner in (often, never)]
    assert same_weights(*own) == []
    parameters = [dict(plain_model(runner).named_parameters()) for runner in (often, never)]
    assert same_weights(*parameters) == []


def test_checkpoints_hold_estimated_statistics_and_the_runs_own(train):
    runner = train(**PAPER)
    saved = load(runner, "iter_2.pth")
    name = "backbone.layer4.0.conv1.whitening.running_whitening"
    assert not torch.equal(saved["state_dict"][name], saved[STATISTICS_KEY][name])
    assert saved["state_dict"][name.replace("whitening.running_whitening", "whitening.running_weight")] == 1


@pytest.mark.parametrize(("preset", "ema"), [("paper", True), ("fast", False)])
def test_a_resumed_run_is_the_same_to_the_bit(run_config, same_weights, preset, ema):
    from mmengine.runner import Runner

    def start(folder, **options):
        config = run_config(folder, model__ndpp__preset=preset, **options)
        runner = Runner.from_cfg(with_ema(config) if ema else config)
        runner.train()
        return runner

    whole = start("whole")
    resumed = Path(whole.work_dir).with_name("resumed")
    resumed.mkdir()
    shutil.copy(Path(whole.work_dir) / "iter_2.pth", resumed)
    (resumed / "last_checkpoint").write_text(str(resumed / "iter_2.pth"))
    again = start("resumed", resume=True)
    one, other = load(whole, "iter_4.pth"), load(again, "iter_4.pth")
    assert same_weights(one["state_dict"], other["state_dict"]) == []
    if ema:
        assert same_weights(one["ema_state_dict"], other["ema_state_dict"]) == []
    assert all(torch.equal(a["torch"], b["torch"]) for a, b in zip(one[RANDOM_KEY], other[RANDOM_KEY], strict=True))


def test_averaged_weights_get_statistics_of_their_own(run_config, monkeypatch):
    """With an EMAHook, a checkpoint's model is the averaged one: its statistics must be estimated on it."""
    from mmengine.runner import Runner

    from ndpp_dense.training import evaluation_stats

    name, seen, estimate = "backbone.stem.0.weight", [], evaluation_stats.update_stats

    def watched(model, *args):
        seen.append(model.state_dict()[name].clone())
        return estimate(model, *args)

    monkeypatch.setattr(evaluation_stats, "update_stats", watched)
    runner = Runner.from_cfg(with_ema(run_config(**PAPER)))
    runner.train()
    saved = load(runner, "iter_4.pth")
    assert torch.equal(seen[-1], saved["state_dict"][name])
    assert torch.equal(plain_model(runner).state_dict()[name], saved["ema_state_dict"][f"module.{name}"])
    assert not torch.equal(seen[-1], plain_model(runner).state_dict()[name])


def test_accumulated_steps_move_statistics_once(train):
    once = train("once", train_cfg__max_iters=1)
    twice = train("twice", train_cfg__max_iters=2, optim_wrapper__accumulative_counts=2)
    for (_, layer), (_, other) in zip(nd_layers(once.model), nd_layers(twice.model), strict=True):
        assert torch.equal(layer.whitening.running_cov, other.whitening.running_cov)


def test_stale_statistics_move_by_all_micro_batches_of_a_step(train):
    """The first step has one micro-batch's for a start, the second both, and the last but one micro-batch."""
    stale = {"model__ndpp__schedule": "stale", "optim_wrapper__accumulative_counts": 2}
    weights = []
    for iterations in (2, 4, 5):
        runner = train(f"stale{iterations}", train_cfg__max_iters=iterations, train_cfg__val_interval=9, **stale)
        layer = runner.model.backbone.stem[0]  # has rows enough in every micro-batch
        weights.append(float(layer.whitening.running_weight))
        assert (layer.whitening.micro_batches, layer.whitening.under_way) == (1, False)
    momentum = layer.config.momentum
    assert weights == pytest.approx([1 - (1 - momentum) ** steps for steps in (1, 2, 3)])


@pytest.mark.parametrize(
    ("done", "end", "micro_batch"), [(0, 8, (0, 3)), (4, 8, (1, 3)), (6, 8, (0, 2)), (7, 8, (1, 2)), (7, -1, (1, 3))]
)
def test_which_micro_batch_an_iteration_is(done, end, micro_batch):
    wrapper = SimpleNamespace(_accumulative_counts=3, _inner_count=done, _max_counts=end)
    assert _micro_batch_of(wrapper) == micro_batch
    assert _micro_batch_of(object()) == (0, 1)


def test_momentum_follows_the_batch_of_all_processes(monkeypatch):
    from types import SimpleNamespace

    from ndpp_dense.conversion.options import read_options
    from ndpp_dense.integrations.mmengine import hooks

    def images(batch, ranks, **wrapper):
        seen = []
        monkeypatch.setattr(hooks, "get_world_size", lambda: ranks)
        monkeypatch.setattr(hooks, "fit_momentum", lambda model, size: seen.append(size) or 0.5)
        loader = SimpleNamespace(batch_sampler=SimpleNamespace(batch_size=batch))
        wrapper = SimpleNamespace(**wrapper)
        model = torch.nn.Identity()
        model.ndpp_options = read_options({}, "cityscapes")
        hooks._fit_momentum(SimpleNamespace(train_dataloader=loader, optim_wrapper=wrapper, model=model))
        return seen[0]

    hooks._fit_momentum(SimpleNamespace(model=torch.nn.Identity()))  # nothing to fit: its loader may be of any kind

    assert images(8, 1) == 8
    assert images(16, 4) == 64
    assert images(2, 4, _accumulative_counts=3) == 24


def test_divergence_names_layer_and_checkpoint(run_config):
    from mmengine.hooks import Hook
    from mmengine.runner import Runner

    class Poison(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if batch_idx == 3:
                with torch.no_grad():
                    runner.model.decode_head.bottleneck.conv.weight[0] = float("nan")

    runner = Runner.from_cfg(run_config())
    runner.register_hook(Poison())
    pattern = r"iteration 3: the loss is nan.*'decode_head.bottleneck.conv' .*iter_2.pth; nothing was saved.*ndpp.eps"
    with pytest.raises(FloatingPointError, match=pattern):
        runner.train()
    name = "backbone.stem.0.weight"
    assert plain_model(runner).state_dict()[name].isfinite().all()  # the optimizer did not use it


def test_batches_are_skipped_one_by_one_and_as_the_maintained_fork_asks():
    """Its loop calls ``skip_iter`` where MMEngine's takes batch after batch."""
    from ndpp_dense.integrations.mmengine.hooks import _Skipped
    from ndpp_dense.training.rng import get_rng_state

    torch.manual_seed(1)
    state, expected = get_rng_state(), torch.rand(3)
    for skip in (lambda batches: [next(batches) for _ in range(2)], lambda batches: batches.skip_iter(2)):
        batches = _Skipped(iter("abcd"), 2, state)
        skip(batches)
        torch.manual_seed(9)
        assert next(batches) == "c"
        assert torch.equal(torch.rand(3), expected)
        assert next(batches) == "d"
