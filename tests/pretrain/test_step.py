"""One optimizer step: micro-batches are one batch, statistics move once, divergence names the layer."""

from functools import partial
from itertools import islice

import pytest
import torch

from ndpp_dense import nd_layers
from ndpp_dense.layers.model_statistics import freeze_stats
from ndpp_dense.pretrain.images import open_images
from ndpp_dense.pretrain.network import build_network
from ndpp_dense.pretrain.optimization import build_optimizer
from ndpp_dense.pretrain.step import OptimizerStep
from ndpp_dense.pretrain.stream import TrainStream, train_batches

CPU = torch.device("cpu")


@pytest.fixture
def images(tree):
    return open_images(tree)[0]


def build(config):
    torch.manual_seed(0)
    network = build_network(config, 2)
    return network, OptimizerStep(network, build_optimizer(config, network), config, 2, CPU)


def micro_batches(images, config):
    batches = train_batches(TrainStream(images, config, seed=0), config, CPU)
    return list(islice(batches, config.accumulation))


def test_micro_batches_are_one_batch_where_statistics_are_frozen(images, tiny):
    results = []
    for accumulation in (1, 4):
        config = tiny(accumulation=accumulation, momentum=0.0, optimizer="momentum")
        network, step = build(config)
        freeze_stats(network)
        loss = step(micro_batches(images, config), 0)
        results.append((loss, [p.detach().clone() for p in network.parameters()]))
    (loss, whole), (other_loss, parts) = results
    assert other_loss == pytest.approx(loss, rel=1e-5)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_micro_batches_are_one_batch_where_statistics_are_of_the_steps_before(images, tiny):
    results = []
    for accumulation in (1, 2):
        ndpp = {**tiny().ndpp, "schedule": "stale"}
        config = tiny(accumulation=accumulation, optimizer="momentum", lr=1e-3, ndpp=ndpp)
        network, step = build(config)
        batches = train_batches(TrainStream(images, config, seed=0), config, CPU)
        losses = [step(list(islice(batches, accumulation)), number) for number in range(3)]
        results.append((losses, network.state_dict()))
    (losses, whole), (other_losses, parts) = results
    assert other_losses == pytest.approx(losses, rel=1e-4)
    for name, value in whole.items():
        if "running_weight" in name:
            assert parts[name] == pytest.approx(float(value), rel=1e-5), name


def test_statistics_move_once_a_step(images, tiny):
    config = tiny(accumulation=2)
    network, step = build(config)
    step(micro_batches(images, config), 0)
    momentum = next(nd_layers(network))[1].config.momentum
    for name, layer in nd_layers(network):
        assert 0 < layer.whitening.running_weight <= momentum + 1e-6, name


def test_clipping_bounds_the_gradient(images, tiny):
    config = tiny(clip_grad=1e-3)
    network, step = build(config)
    step(micro_batches(images, config), 0)
    norm = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]).norm()
    assert norm <= 1.001e-3


@pytest.mark.parametrize("settings", [{"amp": "bfloat16"}, {"channels_last": True}])
def test_precision_and_format_hardly_change_the_loss(images, tiny, settings):
    plain = build(tiny())[1](micro_batches(images, tiny()), 0)
    config = tiny(**settings)
    assert build(config)[1](micro_batches(images, config), 0) == pytest.approx(plain, rel=0.05)


def test_divergence_names_the_layer_and_leaves_the_weights(images, tiny):
    network, step = build(tiny())
    bad = network.get_submodule("layer3.0.conv1")
    with torch.no_grad():
        bad.weight[0, 0] = float("inf")
    before = [p.detach().clone() for p in network.parameters()]
    with pytest.raises(FloatingPointError, match=r"iteration 7: the loss is .*'layer3.0.conv1'.*last.pth") as error:
        step(micro_batches(images, tiny()), 7, "run/last.pth")
    assert "lower lr" in str(error.value)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch.compile itself, after a graph break
def test_a_compiled_step_is_the_same_step(images, tiny, monkeypatch):
    # Without generating code, which would take minutes.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    losses = []
    for compile_it in (False, True):
        config = tiny(compile=compile_it, accumulation=2)
        _, step = build(config)
        losses.append([step(micro_batches(images, config), number) for number in range(2)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
