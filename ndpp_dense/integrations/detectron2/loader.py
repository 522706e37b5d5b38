"""Training batches that depend on the seed and the iteration only: not on workers, interruptions or the past."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, cast

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, get_detection_dataset_dicts
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from ndpp_dense.distributed.patience import patient
from ndpp_dense.training.rng import isolated_rng

__all__ = ["PositionedBatchSampler", "SeededDataset", "TrainData"]

_log = logging.getLogger(__name__)
_SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler")
_MAX_RETRIES = 100


class PositionedBatchSampler(Sampler):
    """Deal a stream of indices out to optimizer steps, their micro-batches and the ranks; start at any micro-batch.

    The images of a step do not depend on the numbers of micro-batches and ranks, so a run may go on with other numbers.
    A position is a sample's place in the stream; it is what the sample's augmentation is seeded from.

    Args:
        indices: an endless stream of dataset indices, equal on all ranks and whenever it is iterated.
        step_size: images of an optimizer step over all micro-batches and ranks; a multiple of their product.
        micro_batches: micro-batches of a step.
        groups: for every dataset index its group; a step holds one group only. None puts all in one.
        skip: micro-batches to leave out at the start. Replayed as integers: a million images take about a second.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        indices: Iterable[int],
        step_size: int,
        *,
        micro_batches: int = 1,
        groups: Sequence[int] | None = None,
        skip: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.indices = indices
        self.step_size = step_size
        self.groups = groups
        self.skip = skip
        self.size = step_size // (micro_batches * world_size)
        self.starts = [(micro_batch * world_size + rank) * self.size for micro_batch in range(micro_batches)]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield this rank's ``(position, index)`` pairs, a list a micro-batch, without end."""
        micro_batches = (step[start : start + self.size] for step in self._steps() for start in self.starts)
        return islice(micro_batches, self.skip, None)

    def _steps(self) -> Iterator[list[tuple[int, int]]]:
        waiting: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for position, index in enumerate(self.indices):
            group = 0 if self.groups is None else self.groups[index]
            waiting[group].append((position, index))
            if len(waiting[group]) == self.step_size:
                yield waiting.pop(group)


class SeededDataset(Dataset):
    """Map dataset dicts with all random generators seeded from the sample's position.

    Errors that concern a single sample (``OSError``, ``ValueError``) are returned in its place, so that the main
    process raises them with their own message instead of a worker's traceback.

    Args:
        dicts: Detectron2 dataset dicts, serialised or not.
        mapper: turns a dict into a model input; may return None to have another sample drawn.
        seed: seed of all augmentation in this run, not negative.
    """

    def __init__(self, dicts: list[dict] | DatasetFromList, mapper: Callable[[dict], dict | None], seed: int) -> None:
        self.dicts = dicts if isinstance(dicts, DatasetFromList) else DatasetFromList(dicts, copy=False)
        self.mapper = mapper
        self.seed = seed

    def __len__(self) -> int:
        """Return the number of dataset dicts."""
        return len(self.dicts)

    def __getitem__(self, key: tuple[int, int]) -> dict | Exception:
        """Return the mapped sample of a ``(position, index)`` pair, or the error that it met."""
        position, index = key
        with isolated_rng(self.seed, position):
            try:
                return self._mapped(index)
            except (OSError, ValueError) as error:
                return error

    def _mapped(self, index: int) -> dict:
        for _ in range(_MAX_RETRIES):
            sample = self.mapper(cast(dict, self.dicts[index]))
            if sample is not None:
                return sample
            index = int(torch.randint(len(self), ()))
        raise ValueError(f"the mapper refused {_MAX_RETRIES} samples in a row, the last one {self.dicts[index]}.")


class TrainData:
    """The training set of a configuration, from which loaders start at any iteration.

    Annotations are kept as one array of bytes, which loader processes share. Python's own objects would take several
    times as much, and each process would copy them when it collects garbage.

    Args:
        cfg: Detectron2 configuration with the trainer's keys.
        mapper: turns a dataset dict into a model input.

    Attributes:
        dicts: The dataset dicts, made anew whenever one is asked for.

    Raises:
        ValueError: if the batch can't be split over ranks and accumulation steps, or the sampler is unknown.
    """

    def __init__(self, cfg: CfgNode, mapper: Callable[[dict], dict | None]) -> None:
        self.cfg = cfg
        self.mapper = mapper
        _check_split(cfg)
        if not cfg.DATASETS.TRAIN:
            raise ValueError("DATASETS.TRAIN is empty: give images to train on, --dataset NAME_train=JSON:IMAGES.")
        keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
        dicts: Any = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN,
            filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
            min_keypoints=keypoints,
            proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
        )
        self._groups = _orientations(dicts) if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None
        self._repeats = _repeat_factors(dicts, cfg)
        self.dicts = DatasetFromList(dicts, copy=False)

    def batches(self, seed: int, *, skip: int = 0, num_workers: int | None = None) -> Iterator[list[dict]]:
        """Load the micro-batches of batches without end.

        Args:
            seed: decides order and augmentation. Equal on all ranks.
            skip: micro-batches to leave out at the start (a resumed run has used them).
            num_workers: loader processes; None takes ``DATALOADER.NUM_WORKERS``.

        Yields:
            This rank's share of the next micro-batch, a list of model inputs.

        Raises:
            OSError: if an image can't be read.
            ValueError: if an image or its annotation is unusable.
        """
        workers = self.cfg.DATALOADER.NUM_WORKERS if num_workers is None else num_workers
        loader = DataLoader(
            SeededDataset(self.dicts, self.mapper, seed),
            batch_sampler=PositionedBatchSampler(
                self._indices(seed),
                self.cfg.SOLVER.IMS_PER_BATCH,
                micro_batches=self.cfg.SOLVER.ACCUMULATION_STEPS,
                groups=self._groups,
                skip=skip,
                rank=comm.get_rank(),
                world_size=comm.get_world_size(),
            ),
            num_workers=workers,
            collate_fn=_as_list,
            persistent_workers=workers > 0,
            # Its own generator: the loader must not draw from the one that training uses.
            generator=torch.Generator().manual_seed(seed),
        )
        for batch in patient(loader):
            for sample in batch:
                if isinstance(sample, Exception):
                    raise sample
            yield batch

    def _indices(self, seed: int) -> Sampler:
        if self._repeats is None:
            sampler: Any = TrainingSampler(len(self.dicts), seed=seed)
        else:
            sampler = RepeatFactorTrainingSampler(self._repeats, seed=seed)
        sampler._rank, sampler._world_size = 0, 1  # the whole stream: PositionedBatchSampler deals it out
        return sampler


def _repeat_factors(dicts: list[dict], cfg: CfgNode) -> torch.Tensor | None:
    """How often each image is drawn; None for alike."""
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name not in _SAMPLERS:
        raise ValueError(f"DATALOADER.SAMPLER_TRAIN is '{name}'; the choices are {', '.join(_SAMPLERS)}.")
    if name == "TrainingSampler":
        return None
    threshold = cfg.DATALOADER.REPEAT_THRESHOLD
    return RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(dicts, threshold)


def _orientations(dicts: list[dict]) -> list[int] | None:
    """Landscape or portrait: a batch of both would be mostly padding. None where an image does not say."""
    missing = next((d for d in dicts if "width" not in d or "height" not in d), None)
    if missing is not None:
        _log.warning("No aspect ratio grouping: %s has no width or height.", missing.get("file_name", "an image"))
        return None
    return [int(d["width"] > d["height"]) for d in dicts]


def _as_list(samples: list[Any]) -> list[Any]:
    return samples


def _check_split(cfg: CfgNode) -> None:
    """Check that the batch splits over ranks and accumulation steps."""
    total, steps, world_size = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATION_STEPS, comm.get_world_size()
    if steps < 1 or total < 1 or total % (steps * world_size):
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH={total} does not split evenly over {world_size} process(es) and "
            f"SOLVER.ACCUMULATION_STEPS={steps}: make it a multiple of {max(steps, 1) * world_size}."
        )
