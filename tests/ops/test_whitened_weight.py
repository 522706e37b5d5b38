import pytest
import torch

from ndpp_dense.ops.whitened_weight import whitened_weight

SHAPES = {"dense": (1, 6, 3, 4), "depthwise": (5, 1, 1, 9), "groups of blocks": (2, 3, 2, 4)}


def tensors(shape, shared, dtype=torch.float64):
    groups, outputs, blocks, dim = shape
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(groups, outputs, blocks, dim, generator=generator, dtype=dtype)
    bias = torch.randn(groups, outputs, generator=generator, dtype=dtype)
    mean = torch.randn(groups, blocks, dim, generator=generator, dtype=dtype)
    whitening = torch.randn(1 if shared else groups * blocks, dim, dim, generator=generator, dtype=dtype)
    return weight, bias, mean, whitening + whitening.mT


def plain(weight, bias, mean, whitening):
    groups, _, blocks, dim = weight.shape
    by_block = whitening.expand(groups * blocks, dim, dim).view(groups, blocks, dim, dim)
    whitened = torch.einsum("qogd,qgde->qoge", weight, by_block)
    return whitened, bias - torch.einsum("qogd,qgd->qo", whitened, mean)


@pytest.mark.parametrize("constant", [True, False], ids=["constant", "differentiated"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "a D per block"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients_are_those_of_the_plain_formula(shape, shared, constant):
    weight, bias, mean, whitening = tensors(shape, shared)
    wanted = [weight.requires_grad_(), bias.requires_grad_()] + (
        [] if constant else [mean.requires_grad_(), whitening.requires_grad_()]
    )
    arguments = (weight, bias, mean, whitening)
    expected, found = plain(*arguments), whitened_weight(*arguments)
    upstream = [torch.randn_like(t) for t in expected]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        torch.autograd.grad(found, wanted, upstream), torch.autograd.grad(expected, wanted, upstream)
    )


def test_constant_statistics_keep_nothing_of_the_weight_size():
    weight, bias, mean, whitening = tensors((1, 64, 3, 4), shared=False)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        whitened_weight(weight.requires_grad_(), bias, mean, whitening)
    assert sorted(kept) == [mean.numel(), whitening.numel()]


def test_it_compiles_whole():
    weight, bias, mean, whitening = tensors((1, 6, 3, 4), shared=False)
    compiled = torch.compile(whitened_weight, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(weight, bias, mean, whitening), plain(weight, bias, mean, whitening))


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "a D per block"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_autocast_around_the_backward_pass_alone_changes_nothing(shape, shared):
    weight, bias, mean, whitening = tensors(shape, shared, torch.float32)
    outputs = whitened_weight(weight.requires_grad_(), bias, mean, whitening)
    upstream = [torch.randn_like(y) for y in outputs]
    (plainly,) = torch.autograd.grad(outputs, weight, upstream, retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (within,) = torch.autograd.grad(outputs, weight, upstream)
    assert torch.equal(within, plainly)
