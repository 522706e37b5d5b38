"""Batches that depend on the seed and the step only: not on loader processes, interruptions or the past."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
import torch
from timm.data.loader import create_loader
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from ndpp_dense.distributed.patience import patient
from ndpp_dense.pretrain.config import PretrainConfig
from ndpp_dense.pretrain.images import Images
from ndpp_dense.training.rng import isolated_rng

__all__ = ["Batch", "TrainStream", "ValidationShard", "train_batches", "validation_batches"]

Batch = tuple[torch.Tensor, torch.Tensor]  # images (N, 3, H, W), normalised, and class numbers (N,), on the device


class TrainStream(IterableDataset):
    """Training samples of one rank without end, from any micro-batch of the run on.

    Every epoch has an order of its own, of which each optimizer step takes the next ``batch_size`` positions; they are
    dealt out by micro-batches, then by ranks. So any number of ranks and micro-batches sees the same images in a step,
    and each image is augmented by random numbers of its position. Images that do not fill a step are left out.

    Args:
        images: Training images.
        config: Settings; read are ``batch_size`` and ``accumulation``.
        seed: Of order and augmentation, equal on all ranks.
        start: Optimizer steps to leave out.
        rank: This process.
        world_size: Number of processes.

    Raises:
        ValueError: The images do not fill a step, or the batch does not split evenly.
    """

    def __init__(
        self, images: Images, config: PretrainConfig, seed: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        batch, micro_batches = config.batch_size, config.accumulation
        if batch % (micro_batches * world_size):
            raise ValueError(
                f"batch_size = {batch} does not split evenly over {world_size} process(es) and accumulation = "
                f"{micro_batches}: make it a multiple of {micro_batches * world_size}."
            )
        if len(images) < batch:
            raise ValueError(f"{len(images)} training images in {images.root} do not fill batch_size = {batch}.")
        self.images = images
        self.batch_size = batch
        self.micro_batches = micro_batches
        self.micro_batch_size = batch // (micro_batches * world_size)
        self.steps_per_epoch = len(images) // batch
        self.seed = seed
        self.start = start
        self.rank = rank
        self.world_size = world_size
        self.transform: Callable[[Any], Any] = _unset  # timm's create_loader sets it

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        """Yields samples; one of several loader processes yields whole micro-batches in turn with the others."""
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for micro_batch in count(self.start * self.micro_batches + number, workers):
            yield from self._micro_batch(micro_batch)

    def _micro_batch(self, micro_batch: int) -> Iterator[tuple[Any, int]]:
        step, within = divmod(micro_batch, self.micro_batches)
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        first = step_of_epoch * self.batch_size + (within * self.world_size + self.rank) * self.micro_batch_size
        order = self._order(epoch)
        for position in range(first, first + self.micro_batch_size):
            image, target = self.images.load(int(order[position]))
            with isolated_rng(self.seed, epoch, position):
                image = self.transform(image)
            yield image, target

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.images))


class ValidationShard(Dataset):
    """Every ``world_size``-th validation image, beginning with number ``rank``: no image twice, none left out."""

    def __init__(self, images: Images, rank: int = 0, world_size: int = 1) -> None:
        self.images = images
        self.indices = range(rank, len(images), world_size)
        self.transform: Callable[[Any], Any] = _unset  # timm's create_loader sets it

    def __len__(self) -> int:
        """Number of this rank's images."""
        return len(self.indices)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        """Returns a transformed image and its class number."""
        image, target = self.images.load(self.indices[number])
        return self.transform(image), target


def train_batches(
    stream: TrainStream, config: PretrainConfig, device: torch.device, workers: int | None = None
) -> Iterator[Batch]:
    """Micro-batches of training batches without end, augmented image by image.

    Args:
        stream: Where to take them from.
        config: Settings of size and augmentation.
        device: Where the batches go.
        workers: Loader processes; None takes ``config.workers``.
    """
    return _batches(
        stream,
        config,
        device,
        batch_size=stream.micro_batch_size,
        is_training=True,
        num_workers=config.workers if workers is None else workers,
        scale=config.crop_scale,
        color_jitter=config.color_jitter or None,
        auto_augment=config.auto_augment or None,
    )


def validation_batches(
    shard: ValidationShard, config: PretrainConfig, device: torch.device, batch_size: int
) -> Iterator[Batch]:
    """This rank's validation images once, resized and cropped to the centre."""
    return _batches(shard, config, device, batch_size=batch_size, num_workers=config.workers, crop_pct=config.crop_pct)


def _batches(
    dataset: Dataset, config: PretrainConfig, device: torch.device, is_training: bool = False, **options: Any
) -> Iterator[Batch]:
    interpolation = config.interpolation
    if interpolation == "random" and not is_training:
        interpolation = "bilinear"
    loader: Any = create_loader(
        dataset,  # pyright: ignore[reportArgumentType]
        input_size=(3, config.image_size, config.image_size),
        is_training=is_training,
        interpolation=interpolation,
        pin_memory=device.type == "cuda",
        device=device,
        persistent_workers=False,
        **options,
    )
    # Its own generator: starting loader processes must not draw from the one that training uses.
    loader.loader.generator = torch.Generator().manual_seed(config.seed)
    patient(loader.loader)
    return iter(loader)


def _unset(image: Any) -> Any:
    raise RuntimeError("the data set has no transform yet: make its batches with train_batches or validation_batches")
