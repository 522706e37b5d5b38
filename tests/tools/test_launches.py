"""Operations that a training step launches: how they are counted, and that they do not creep up."""

import pytest
import torch
from bench import launches

# Operations of ResNet-50, and how many of them at the most.
BOUNDS = {
    "ND++ fast": 3157,
    "ND++ fast, stale": 1487,
    "ND++ fast, every=4, between updates": 982,
    "ND++ paper": 6820,
}


def test_views_and_empty_memory_are_not_counted_and_backward_belongs_to_its_forward():
    x = torch.empty(4, 6, device="meta", requires_grad=True)
    with launches.CountOperations() as seen:
        first = seen.marked(lambda x: x.t().exp(), "one")(x)
        second = seen.marked(lambda y: y.sin().view(4, 6), "two")(first.contiguous())
        torch.empty_like(x)
        second.sum().backward()
    # The rest: contiguous, sum, the ones that backward begins with, and a copy of the gradient in the layout of x.
    assert seen.number == {"one": 2, "two": 3, launches.REST: 4}
    assert seen.names["exp"] == seen.names["sin"] == seen.names["cos"] == 1


def test_batch_norm_is_counted_to_the_rest():
    found = launches.counted("ResNet-50", "BN")
    assert found == {launches.REST: 410}
    assert {case.name for case in launches.launch_cases(launches.Settings())} >= {*launches.NETWORKS, "solver"}


@pytest.mark.parametrize("label", BOUNDS)
def test_resnet50_launches_no_more_than(label):
    found = launches.counted("ResNet-50", label)
    assert found.total() <= BOUNDS[label]
    assert found["convolution"] >= 53 * 2
