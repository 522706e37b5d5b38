"""Copies of stored statistics are made when these have changed, and only then."""

import copy
import pickle

import torch

from ndpp_dense import NDConv2d, WhiteningConfig, hold_stats
from ndpp_dense.layers.statistics.stored import Stored


def test_copies_are_made_anew_after_a_write_and_for_other_buffers():
    stored, mean, whitening = Stored(), torch.zeros(2, 3), torch.ones(2, 3, 3)
    first = stored.of(mean, whitening)
    assert stored.of(mean, whitening)[0] is first[0]
    mean.add_(1)
    second = stored.of(mean, whitening)
    assert first[0].eq(0).all()
    assert second[0].eq(1).all()
    assert stored.of(mean.clone(), whitening)[0] is not second[0]
    for other in (copy.deepcopy(stored), pickle.loads(pickle.dumps(stored))):
        assert other.of(mean, whitening)[0] is not stored.of(mean, whitening)[0]


def test_what_a_step_has_written_is_its_own_copy():
    stored, mean, whitening = Stored(), torch.zeros(2, 3), torch.ones(2, 3, 3)
    copies = mean + 1, whitening + 1
    mean.copy_(copies[0])
    whitening.copy_(copies[1])
    stored.keep((mean, whitening), copies)
    assert stored.of(mean, whitening) is copies


def test_copies_made_under_inference_mode_do_not_reach_a_later_training_step():
    layer = NDConv2d(4, 4, 1, config=WhiteningConfig(schedule="every=3"))
    x = torch.randn(4, 4, 6, 6)
    layer(x)
    with torch.inference_mode(), hold_stats(layer):
        layer(x)
    layer(x).sum().backward()
    assert torch.isfinite(layer.weight.grad).all()
