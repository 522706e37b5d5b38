"""Batches must depend on seed and position only."""

import gc
from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data.samplers import TrainingSampler

from ndpp_dense.integrations.detectron2.loader import PositionedBatchSampler, SeededDataset, TrainData
from ndpp_dense.integrations.detectron2.mapper import CheckedDatasetMapper
from ndpp_dense.training.rng import get_rng_state

pytestmark = pytest.mark.detectron2


def take(iterable, count):
    return list(islice(iterable, count))


@pytest.fixture
def data(build_tiny):
    def build(*overrides, mapper=CheckedDatasetMapper):
        cfg = build_tiny(*overrides)
        return TrainData(cfg, mapper(cfg, True))

    return build


def same(batches, others):
    pairs = [pair for a, b in zip(batches, others, strict=True) for pair in zip(a, b, strict=True)]
    return all(a["image_id"] == b["image_id"] and torch.equal(a["image"], b["image"]) for a, b in pairs)


@pytest.mark.parametrize("groups", [None, [0, 1, 1, 0, 1, 1, 1, 0, 0, 1]])
def test_skipping_batches_equals_drawing_them(groups):
    def batches(skip):
        return iter(PositionedBatchSampler(TrainingSampler(10, seed=3), 4, groups=groups, skip=skip))

    assert take(batches(7), 5) == take(batches(0), 12)[7:]


def test_groups_do_not_mix_and_nothing_is_lost():
    groups = [0, 1, 1, 0, 1]
    drawn = take(PositionedBatchSampler(TrainingSampler(5, seed=0), 2, groups=groups), 50)
    assert all(groups[a] == groups[b] for (_, a), (_, b) in drawn)
    counts = np.bincount([index for batch in drawn for _, index in batch], minlength=5)
    assert counts.min() >= 18


@pytest.mark.parametrize("groups", [None, [0, 1, 1, 0, 1, 1, 1, 0, 0, 1]])
@pytest.mark.parametrize(("world_size", "micro_batches"), [(2, 1), (4, 1), (1, 4), (2, 2)])
def test_any_number_of_ranks_and_micro_batches_draws_the_same_steps(groups, world_size, micro_batches):
    def deal(**split):
        return PositionedBatchSampler(TrainingSampler(10, seed=3), 8, groups=groups, **split)

    ranks = [deal(rank=rank, world_size=world_size, micro_batches=micro_batches) for rank in range(world_size)]
    drawn = [
        pair
        for parts in zip(*(take(rank, 6 * micro_batches) for rank in ranks), strict=True)
        for pair in sum(parts, [])
    ]
    assert drawn == sum(take(deal(), 6), [])
    later = [
        deal(rank=rank, world_size=world_size, micro_batches=micro_batches, skip=3 * micro_batches)
        for rank in range(world_size)
    ]
    assert [next(iter(rank)) for rank in later] == [take(rank, 3 * micro_batches + 1)[-1] for rank in ranks]


def test_the_configured_stream_does_not_depend_on_the_rank(data, monkeypatch):
    alone = take(data("SOLVER.IMS_PER_BATCH", 4).batches(5), 3)
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        parts.append(take(data("SOLVER.IMS_PER_BATCH", 4).batches(5), 3))
    assert same([a + b for a, b in zip(*parts, strict=True)], alone)


def test_workers_and_resuming_change_no_pixel(data):
    source = data("DATALOADER.ASPECT_RATIO_GROUPING", True)
    whole = take(source.batches(5), 8)
    assert same(take(source.batches(5, num_workers=2), 8), whole)
    assert same(take(source.batches(5, skip=6), 2), whole[6:])
    assert not same(take(source.batches(6), 8), whole)


def test_augmentation_follows_the_position(data):
    source = data()
    dataset = SeededDataset(source.dicts, source.mapper, seed=5)
    images = [dataset[position, 0]["image"] for position in range(12)]
    assert len({image.shape for image in images}) > 1
    assert all(torch.equal(image, dataset[position, 0]["image"]) for position, image in enumerate(images))


def test_loading_draws_nothing_from_the_generators_of_training(data):
    before = get_rng_state()
    take(data().batches(5), 3)
    after = get_rng_state()
    assert before["python"] == after["python"]
    assert torch.equal(before["numpy"][1], after["numpy"][1])
    assert torch.equal(before["torch"], after["torch"])


def test_annotations_are_kept_as_bytes_that_processes_share(data):
    source = data("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler")
    gc.collect()
    assert [o for o in gc.get_objects() if type(o) is dict and {"annotations", "file_name"} <= o.keys()] == []
    assert SeededDataset(source.dicts, source.mapper, 0).dicts is source.dicts
    assert source.dicts[0]["annotations"]


def test_repeat_factor_sampler(data):
    source = data("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "DATALOADER.REPEAT_THRESHOLD", 0.5)
    assert same(take(source.batches(1, skip=2), 2), take(source.batches(1), 4)[2:])


def test_unknown_sampler_names_the_choices(data):
    with pytest.raises(ValueError, match="'Sampler'; the choices are TrainingSampler"):
        next(data("DATALOADER.SAMPLER_TRAIN", "Sampler").batches(0))


@pytest.mark.parametrize(
    ("images", "steps", "said"),
    [
        (3, 2, "IMS_PER_BATCH=3 .*ACCUMULATION_STEPS=2"),
        (2, 0, "ACCUMULATION_STEPS is 0, it must be a whole number, at least 1"),
        (0, 1, "IMS_PER_BATCH is 0, it must be a whole number, from 1"),
    ],
)
def test_a_batch_that_does_not_split(data, images, steps, said):
    with pytest.raises(ValueError, match=said):
        data("SOLVER.IMS_PER_BATCH", images, "SOLVER.ACCUMULATION_STEPS", steps)


class Unreadable(DatasetMapper):
    def __call__(self, record):
        if record["image_id"] == 4:
            raise OSError(f"cannot read {record['file_name']}")
        return super().__call__(record)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_is_named_without_a_workers_traceback(data, workers):
    source = data(mapper=Unreadable)
    with pytest.raises(OSError, match=r"^cannot read .*4\.png$"):
        take(source.batches(0, num_workers=workers), 20)


class Refusing(DatasetMapper):
    def __call__(self, record):
        return super().__call__(record) if record["image_id"] == 2 else None


def test_a_refused_sample_is_replaced_in_the_same_way_each_time(data):
    source = data(mapper=Refusing)
    batches = take(source.batches(0), 2)
    assert {sample["image_id"] for batch in batches for sample in batch} == {2}
    assert same(batches, take(source.batches(0), 2))
