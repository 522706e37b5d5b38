import torch
from torch import nn

from ndpp_dense.ops.eager import needs_gradient, runs_eagerly


def test_plain_tensors_and_parameters_run_eagerly():
    assert runs_eagerly(torch.ones(2), nn.Parameter(torch.ones(2)), None)
    with torch.inference_mode():
        assert runs_eagerly(torch.ones(2))


def test_what_is_recorded_for_later_does_not():
    seen = []

    def watch(x):
        seen.append(runs_eagerly(x))
        return x * 2

    torch.func.vmap(watch)(torch.ones(3))
    torch.func.grad(lambda x: watch(x).sum())(torch.ones(3))
    torch.fx.experimental.proxy_tensor.make_fx(watch)(torch.ones(3))
    with torch._subclasses.FakeTensorMode():
        watch(torch.ones(3))
    assert seen == [False] * 4
    compiled = torch.compile(lambda x: x + runs_eagerly(x), backend="eager", fullgraph=True)
    assert compiled(torch.zeros(())) == 0


def test_gradients_are_needed_where_autograd_would_record():
    x, weight = torch.ones(2), nn.Parameter(torch.ones(2))
    assert needs_gradient(x, None, weight)
    assert not needs_gradient(x, None)
    with torch.no_grad():
        assert not needs_gradient(weight)


def test_tangents_and_batches_of_gradients_are_not_plain_values():
    seen = []
    with torch.autograd.forward_ad.dual_level():
        seen.append(runs_eagerly(torch.ones(2)))
    assert runs_eagerly(torch.ones(2))

    class Watch(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            seen.append(runs_eagerly(grad))
            return grad * 2

    x = torch.ones(2, requires_grad=True)
    torch.autograd.grad(Watch.apply(x), x, torch.eye(2), is_grads_batched=True)
    assert seen == [False, False]
