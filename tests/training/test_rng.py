"""Drawing aside from the global generators must leave no trace."""

import random

import numpy as np
import torch

from ndpp_dense.training.rng import get_rng_state, isolated_rng, set_rng_state


def test_isolated_rng_repeats_and_restores():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    state = get_rng_state()
    expected = draw()
    set_rng_state(state)
    with isolated_rng(1, 2):
        inside = draw()
    assert draw() == expected
    with isolated_rng(1, 2):
        assert draw() == inside
    with isolated_rng(2, 1):
        assert draw() != inside
