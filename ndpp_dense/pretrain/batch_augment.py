"""What is done to whole batches on the device, and the loss that goes with it."""

from __future__ import annotations

import torch
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from timm.loss.cross_entropy import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn

from ndpp_dense.pretrain.config import PretrainConfig

__all__ = ["BatchAugment", "loss_function"]


class BatchAugment:
    """Random erasing, then Mixup or CutMix, by the process's own random numbers.

    Not in timm's prefetching loader, which draws a batch ahead: random states saved with a checkpoint would then be
    those of the step after.

    Args:
        config: Settings.
        num_classes: Classes.
        device: Where the batches are.
    """

    def __init__(self, config: PretrainConfig, num_classes: int, device: torch.device) -> None:
        self._erase = self._mix = None
        if config.erasing:
            self._erase = RandomErasing(config.erasing, mode="pixel", device=str(device))
        if _mixes(config):
            self._mix = Mixup(config.mixup, config.cutmix, label_smoothing=config.smoothing, num_classes=num_classes)

    def __call__(self, images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Changes a batch.

        Args:
            images: ``(N, 3, H, W)``, normalised; may be changed in place.
            targets: ``(N,)``, class numbers.

        Returns:
            Images, and targets as the loss takes them: ``(N,)``, or ``(N, classes)`` where images are mixed.

        Raises:
            ValueError: Images are mixed in pairs, and N is odd.
        """
        if self._erase is not None:
            images = self._erase(images)
        if self._mix is None:
            return images, targets
        if len(images) % 2:
            raise ValueError(
                f"mixup and cutmix mix pairs, but a micro-batch has {len(images)} images: change batch_size or "
                "accumulation."
            )
        return self._mix(images, targets)


def loss_function(config: PretrainConfig) -> nn.Module:
    """The loss for what :class:`BatchAugment` returns; takes logits and targets."""
    if _mixes(config):
        return SoftTargetCrossEntropy()  # Mixup has smoothed the targets
    return LabelSmoothingCrossEntropy(config.smoothing) if config.smoothing else nn.CrossEntropyLoss()


def _mixes(config: PretrainConfig) -> bool:
    return config.mixup > 0 or config.cutmix > 0
