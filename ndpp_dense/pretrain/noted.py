"""What an evaluation finds beyond its figures: accuracy by class, and the images it gets most right and most wrong."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.nn.functional import one_hot

from ndpp_dense.pretrain.processes import world_size

__all__ = ["Answer", "Noted"]

_KEPT = 4  # of the worst, and of the best
_SIDE = 336  # pixels that a picture is at least drawn with


@dataclass(frozen=True)
class Answer:
    """An image and what the network says of it.

    Attributes:
        image: ``(3, H, W)``, as the network sees it.
        target: Class number.
        answer: Class number that it is taken for.
        probability: Of the right class, 0 to 1.
    """

    image: Tensor
    target: int
    answer: int
    probability: float

    def jpeg(self) -> bytes:
        """The image as a JPEG file."""
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
        pixels = (self.image.float().cpu() * std + mean).clamp(0, 1).mul(255).byte().permute(1, 2, 0).numpy()
        picture = Image.fromarray(pixels)
        factor = max(1, -(-_SIDE // picture.width))
        stream = io.BytesIO()
        picture.resize((picture.width * factor, picture.height * factor)).save(stream, "JPEG", quality=85)
        return stream.getvalue()


class Noted:
    """Collects while an evaluation runs, on its device, without waiting for it.

    Args:
        classes: Number of them.
        device: Of the evaluation.
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        self._counts = torch.zeros(2, classes, dtype=torch.float64, device=device)
        self._kept: dict[str, tuple[Tensor, ...]] = {}

    def add(self, images: Tensor, targets: Tensor, logits: Tensor) -> None:
        """Takes a batch.

        Args:
            images: ``(N, 3, H, W)``.
            targets: ``(N,)``, class numbers.
            logits: ``(N, C)``.
        """
        answers = logits.argmax(1)
        hits = one_hot(targets, self._counts.shape[1]).to(self._counts)
        self._counts += torch.stack([(hits * (answers == targets).unsqueeze(1)).sum(0), hits.sum(0)])
        chances = logits.float().softmax(1).gather(1, targets.unsqueeze(1)).squeeze(1)
        for group, largest in (("worst", False), ("best", True)):
            batch = (chances, images, targets, answers)
            kept = self._kept.get(group)
            joined = batch if kept is None else tuple(torch.cat(pair) for pair in zip(kept, batch, strict=True))
            chosen = joined[0].topk(min(_KEPT, len(joined[0])), largest=largest).indices
            self._kept[group] = tuple(part[chosen] for part in joined)

    def share(self) -> None:
        """Adds up the counts of all ranks; every rank must call it. Images stay this rank's."""
        if world_size() > 1:
            dist.all_reduce(self._counts)

    def by_class(self) -> list[tuple[float, int]]:
        """Accuracy in percent and number of images of each class; NaN where there are none."""
        right, all_ = self._counts.tolist()
        return [(100 * r / n if n else float("nan"), int(n)) for r, n in zip(right, all_, strict=True)]

    def answers(self, group: str) -> Sequence[Answer]:
        """The ``worst``, or the ``best``, that are not among the worst."""
        if not self._kept:
            return []
        chances, images, targets, answers = self._kept[group]
        seen = set() if group == "worst" else {float(value) for value in self._kept["worst"][0]}
        rows = zip(images, targets.tolist(), answers.tolist(), chances.tolist(), strict=True)
        return [Answer(*row) for row in rows if row[3] not in seen]
