"""Loss and accuracy on the validation images."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from timm.utils.metrics import accuracy
from torch import nn
from torch.nn.functional import cross_entropy

from ndpp_dense.distributed.stopping import EvaluationStopped, stop_agreed, stop_vote, until_stopped
from ndpp_dense.pretrain.config import PretrainConfig
from ndpp_dense.pretrain.noted import Noted
from ndpp_dense.pretrain.processes import sum_numbers
from ndpp_dense.pretrain.step import run_network
from ndpp_dense.pretrain.stream import Batch

__all__ = ["evaluate"]


@torch.no_grad()
def evaluate(
    network: nn.Module,
    batches: Iterable[Batch],
    config: PretrainConfig,
    device: torch.device,
    noted: Noted | None = None,
) -> dict[str, float]:
    """Evaluates a network on the images of all ranks; every rank must call it.

    Args:
        network: Its statistics as they are; left in evaluation mode.
        batches: This rank's validation batches.
        config: Settings.
        device: Where the network is.
        noted: Takes what is found by class and image.

    Returns:
        ``loss`` (cross entropy), ``top1`` and ``top5`` (in percent; of fewer than five classes, of as many).

    Raises:
        EvaluationStopped: A rank was asked to stop; all leave at their next batch.
    """
    network.eval()
    count, loss, first, fifth = 0, torch.zeros((), device=device), 0.0, 0.0
    for images, targets in until_stopped(batches):
        logits = run_network(network, images, config)
        top1, top5 = accuracy(logits, targets, topk=(1, 5))
        count += len(targets)
        if noted is not None:
            noted.add(images, targets, logits)
        loss += cross_entropy(logits, targets, reduction="sum")
        first, fifth = first + top1 * len(targets), fifth + top5 * len(targets)
    total, votes, *sums = sum_numbers(count, stop_vote(), float(loss), float(first), float(fifth), device=device)
    if stop_agreed(votes):
        raise EvaluationStopped
    if noted is not None:
        noted.share()
    return dict(zip(("loss", "top1", "top5"), (value / total for value in sums), strict=True))
