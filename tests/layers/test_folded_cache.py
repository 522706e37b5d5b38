"""W' and b' are computed once where they are constants, and anew after every change of what they come from."""

import copy
import pickle
from unittest import mock

import pytest
import torch

from ndpp_dense import WhiteningConfig
from ndpp_dense.layers.base import NDLayer


@pytest.fixture
def case(kind):
    """A layer in evaluation mode whose statistics are not those it starts with, and an input."""
    make, shape = kind
    layer = make(WhiteningConfig())
    x = torch.randn(12, *shape) + 1
    with torch.no_grad():
        layer(x)
    return layer.eval(), x


def _computations(layer, x):
    with mock.patch.object(NDLayer, "whitened_parameters", autospec=True, side_effect=PLAIN) as spy:
        layer(x)
    return spy.call_count


PLAIN = NDLayer.whitened_parameters


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_computed_once_and_equal_to_the_bit(case, context):
    layer, x = case
    expected = layer(x)  # with gradients: nothing is kept
    assert layer._folded is None
    with context():
        assert [_computations(layer, x) for _ in range(3)] == [1, 0, 0]
        assert torch.equal(layer(x), expected)


def _write(layer):
    layer.weight.mul_(2)


def _write_bias(layer):
    layer.bias.add_(1)


def _new_memory(layer):
    layer.weight.data = layer.weight.data * 2


def _new_parameter(layer):
    layer.weight = torch.nn.Parameter(layer.weight.detach() * 2)


def _statistics(layer):
    layer.whitening.running_mean.add_(1)


def _whitening(layer):
    layer.whitening.running_whitening.mul_(2)


def _load(layer):
    layer.load_state_dict({name: 2 * value for name, value in layer.state_dict().items()})


def _behind_autograds_back(layer):
    layer.weight.data.mul_(2)
    layer.eval()


CHANGES = [_write, _write_bias, _new_memory, _new_parameter, _statistics, _whitening, _load, _behind_autograds_back]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_change_is_seen(case, change, context):
    layer, x = case
    with context():
        before = layer(x)
    with torch.no_grad():
        change(layer)
    with context():
        after = layer(x)
        assert not torch.allclose(after, before)
        assert torch.equal(after, copy.deepcopy(layer)(x))


def test_a_write_in_inference_mode_is_seen(case):
    layer, x = case
    with torch.inference_mode():
        before = layer(x)
        layer.weight.mul_(2)
        assert not torch.allclose(layer(x), before)


def test_parameters_without_version_counter_are_not_trusted(kind):
    make, shape = kind
    x = torch.randn(3, *shape)
    with torch.inference_mode():
        layer = make(WhiteningConfig()).eval()
        before = layer(x)
        layer.weight.mul_(2)
        assert layer._folded is None
        assert not torch.allclose(layer(x), before)


def test_inference_mode_does_not_spoil_training_of_what_comes_before(case):
    layer, x = case
    layer.requires_grad_(False)
    with torch.inference_mode():
        layer(x)
    assert _computations(layer, x) == 0
    x.requires_grad_()
    layer(x).square().sum().backward()
    fresh = x.detach().clone().requires_grad_()
    copy.deepcopy(layer)(fresh).square().sum().backward()
    assert torch.equal(x.grad, fresh.grad)


def test_frozen_layers_in_training_compute_what_needs_gradients(case):
    layer, x = case
    layer.whitening.freeze()
    layer.train()
    assert [_computations(layer, x) for _ in range(2)] == [1, 1]
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    layer.weight.requires_grad_(False)
    assert _computations(layer, x) == 1  # the bias still trains
    layer.bias.requires_grad_(False)
    assert [_computations(layer, x) for _ in range(2)] == [1, 0]


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {}], ids=["fused", "foreach", "plain"])
def test_steps_of_optimizers_are_seen(case, options):
    layer, x = case
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5, **options)
    with torch.no_grad():
        layer(x)
    layer(x).sum().backward()
    optimizer.step()  # in evaluation mode all along
    with torch.no_grad():
        assert torch.equal(layer(x), copy.deepcopy(layer)(x))


def test_calls_of_train_at_every_step_keep_what_frozen_layers_folded(case):
    layer, x = case
    layer.requires_grad_(False).train().whitening.freeze()
    layer(x)
    assert _computations(layer.train(), x) == 0
    assert _computations(layer.eval(), x) == 1


def test_training_statistics_are_not_kept(case):
    layer, x = case
    layer.train().requires_grad_(False)
    assert [_computations(layer, x) for _ in range(2)] == [1, 1]
    assert layer._folded is None


def test_it_is_no_part_of_copies_and_checkpoints(case):
    layer, x = case
    with torch.no_grad():
        y = layer(x)
        names = set(layer.state_dict())
        assert layer._folded is not None
        for twin in (copy.deepcopy(layer), copy.copy(layer), pickle.loads(pickle.dumps(layer))):
            assert twin._folded is None
            assert torch.equal(twin(x), y)
            assert set(twin.state_dict()) == names
    assert layer.double()._folded is None


def test_functional_calls_and_transforms_use_what_they_are_given(case):
    layer, x = case
    with torch.no_grad():
        y = layer(x)
        parameters = {name: 2 * value for name, value in layer.named_parameters()}
        doubled = torch.func.functional_call(layer, parameters, (x,))
        assert not torch.allclose(doubled, y)
        batched = {name: torch.stack([value, 2 * value]) for name, value in layer.named_parameters()}
        both = torch.func.vmap(lambda p: torch.func.functional_call(layer, p, (x,)))(batched)
    torch.testing.assert_close(both, torch.stack([y, doubled]))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
@pytest.mark.filterwarnings("ignore:Using len to get tensor shape")  # of the constant D
def test_traces_and_compiled_graphs_hold_no_constants(case):
    layer, x = case
    layer.requires_grad_(False)
    layer(x)
    traced = torch.jit.trace(layer, (x,), check_trace=False)
    compiled = torch.compile(layer, backend="eager")
    compiled(x)
    layer.weight.mul_(2)
    torch.testing.assert_close(traced(x), layer(x))
    torch.testing.assert_close(compiled(x), layer(x))
