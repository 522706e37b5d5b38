"""What a step sees depends on the seed and the step only."""

from collections import Counter
from itertools import islice

import pytest
import torch

from ndpp_dense.pretrain.images import open_images
from ndpp_dense.pretrain.stream import TrainStream, ValidationShard, train_batches, validation_batches

CPU = torch.device("cpu")


@pytest.fixture
def images(tree):
    return open_images(tree)


def take(stream, config, count, workers=0):
    return list(islice(train_batches(stream, config, CPU, workers=workers), count))


def same(left, right):
    pairs = list(zip(left, right, strict=True))
    return all(torch.equal(a, b) and torch.equal(c, d) for (a, c), (b, d) in pairs)


def test_loader_processes_and_interruptions_change_nothing(images, tiny):
    config = tiny(auto_augment="rand-m9", color_jitter=0.0)
    whole = take(TrainStream(images[0], config, seed=3), config, 5)
    assert same(whole, take(TrainStream(images[0], config, seed=3), config, 5, workers=2))
    assert same(whole[2:], take(TrainStream(images[0], config, seed=3, start=2), config, 3))
    assert not same(whole, take(TrainStream(images[0], config, seed=4), config, 5))


def test_ranks_and_micro_batches_share_the_same_images(images, tiny):
    plain = take(TrainStream(images[0], tiny(), seed=0), tiny(), 2)
    config = tiny(accumulation=2)
    ranks = [take(TrainStream(images[0], config, 0, rank=rank, world_size=2), config, 4) for rank in range(2)]
    for step in range(2):
        parts = [ranks[rank][2 * step + micro_batch][0] for micro_batch in range(2) for rank in range(2)]
        assert torch.equal(torch.cat(parts), plain[step][0])


def test_an_epoch_shows_no_image_twice_and_every_epoch_differs(images, tiny):
    stream = TrainStream(images[0], tiny(), seed=0)
    orders = [stream._order(epoch).tolist() for epoch in range(2)]
    assert stream.steps_per_epoch == 3
    assert all(Counter(order) == Counter(range(24)) for order in orders)
    assert orders[0] != orders[1]


def test_the_training_generators_are_left_alone(images, tiny):
    before = torch.get_rng_state()
    take(TrainStream(images[0], tiny(), seed=0), tiny(), 1)
    list(validation_batches(ValidationShard(images[1]), tiny(), CPU, 4))
    assert torch.equal(before, torch.get_rng_state())


def test_ranks_evaluate_every_image_once(images, tiny):
    targets = [
        torch.cat([t for _, t in validation_batches(ValidationShard(images[1], rank, 3), tiny(), CPU, 2)])
        for rank in range(3)
    ]
    assert [len(t) for t in targets] == [4, 3, 3]
    assert torch.cat(targets).bincount().tolist() == [5, 5]


def test_what_does_not_fit_is_said(images, tiny):
    with pytest.raises(ValueError, match="24 training images .* do not fill batch_size = 25"):
        TrainStream(images[0], tiny(batch_size=25), seed=0)
    with pytest.raises(ValueError, match="batch_size = 8 does not split evenly over 3"):
        TrainStream(images[0], tiny(), seed=0, world_size=3)


def test_an_unreadable_image_is_named_by_loader_processes_too(own_tree, tiny):
    for file in (own_tree / "train").rglob("*.png"):
        file.write_bytes(b"nothing")
    images = open_images(own_tree)[0]
    for workers in (0, 1):
        with pytest.raises(ValueError, match=r"cannot read image .*n0\d_\d+.png"):
            take(TrainStream(images, tiny(), seed=0), tiny(), 1, workers=workers)
