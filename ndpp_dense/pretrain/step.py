"""One optimizer step: micro-batches, mixed precision, clipping, and a guard against NaN."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from timm.utils.clip_grad import dispatch_clip_grad
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ndpp_dense.distributed.compression import compress_gradients
from ndpp_dense.distributed.parallel import data_parallel
from ndpp_dense.distributed.stopping import stop_agreed, stop_vote
from ndpp_dense.pretrain.batch_augment import BatchAugment, loss_function
from ndpp_dense.pretrain.config import PretrainConfig
from ndpp_dense.pretrain.processes import gather, sum_numbers, world_size
from ndpp_dense.pretrain.stream import Batch
from ndpp_dense.training.micro_batches import micro_batches_of_step
from ndpp_dense.training.nonfinite import divergence_message, first_nonfinite_layer
from ndpp_dense.training.rng import get_rng_state, set_rng_state

__all__ = ["OptimizerStep", "run_network"]

_ADVICE = (
    "Try a lower lr, warmup_epochs, clip_grad, or a larger ndpp.eps if the layer is an ND++ layer; with amp=float16 "
    "try bfloat16."
)


def run_network(network: nn.Module, images: torch.Tensor, config: PretrainConfig) -> torch.Tensor:
    """Logits ``(N, classes)`` in float32, in the precision and memory format of the settings."""
    if config.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    dtype = getattr(torch, config.amp) if config.amp else None
    with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
        return network(images).float()


class OptimizerStep:
    """Makes optimizer steps.

    Args:
        network: The network itself.
        optimizer: Its optimizer.
        config: Settings.
        num_classes: Classes.
        device: Where all of them are.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: PretrainConfig,
        num_classes: int,
        device: torch.device,
    ) -> None:
        self.network = network
        self.optimizer = optimizer
        self.config = config
        self.augment = BatchAugment(config, num_classes, device)
        self.loss = loss_function(config)
        # float16 loses small gradients; bfloat16 has float32's range.
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "float16")
        self._still = [module for module in network.modules() if _is_frozen(module)]
        self.stop_agreed = False  # whether any rank was asked to stop, known to all after a step
        self._parallel = _distributed(network, device, config.grad_compression)
        self._trained: Any = torch.compile(self._parallel) if config.compile else self._parallel

    def __call__(self, micro_batches: Sequence[Batch], number: int, good_checkpoint: str | None = None) -> float:
        """Makes one step from the micro-batches of a batch.

        Args:
            micro_batches: This rank's, each ``(images, targets)``.
            number: Of the step, for messages.
            good_checkpoint: The last one saved, for messages.

        Returns:
            The mean loss over micro-batches and ranks.

        Raises:
            FloatingPointError: The loss is not finite; names the layer. Weights are as before the step.
        """
        self.network.train()
        for module in self._still:
            module.eval()  # a norm that does not train keeps its statistics too
        augmented = [self.augment(*micro_batch) for micro_batch in micro_batches]
        before = get_rng_state()
        self.optimizer.zero_grad(set_to_none=True)
        own = self._accumulate(augmented)
        loss, votes = sum_numbers(own, stop_vote(), device=augmented[0][0].device)
        loss, self.stop_agreed = loss / world_size(), stop_agreed(votes)
        if not math.isfinite(loss):
            set_rng_state(before)
            raise FloatingPointError(self._describe(augmented, loss, number, good_checkpoint))
        if self.config.clip_grad:
            self.scaler.unscale_(self.optimizer)
            dispatch_clip_grad(self.network.parameters(), self.config.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss

    def _accumulate(self, micro_batches: Sequence[Batch]) -> float:
        """Adds up the gradients of all micro-batches; returns their mean loss."""
        total = torch.zeros((), device=micro_batches[0][0].device)
        statistics = micro_batches_of_step(self.network, len(micro_batches), lambda: self._run_whole(micro_batches))
        for index, (images, targets) in enumerate(micro_batches):
            with statistics[index], ExitStack() as stack:
                if index < len(micro_batches) - 1 and isinstance(self._parallel, DistributedDataParallel):
                    stack.enter_context(self._parallel.no_sync())  # gradients are exchanged once a step
                loss = self.loss(run_network(self._trained, images, self.config), targets) / len(micro_batches)
                self.scaler.scale(loss).backward()
            total += loss.detach()
        return total.item()

    def _run_whole(self, micro_batches: Sequence[Batch]) -> None:
        run_network(self.network, torch.cat([images for images, _ in micro_batches]), self.config)

    def _describe(self, micro_batches: Sequence[Batch], loss: float, number: int, good_checkpoint: str | None) -> str:
        """Repeats the step to find the layer where it went wrong; all ranks are here together."""

        def repeat() -> None:
            for images, _ in micro_batches:
                run_network(self.network, images, self.config)

        found = gather(first_nonfinite_layer(self.network, repeat))
        layer = next((layer for layer in found if layer), None)
        return divergence_message(number, f"the loss is {loss:.4g}", layer, good_checkpoint, _ADVICE)


def _is_frozen(module: nn.Module) -> bool:
    """Whether a layer has parameters and none of them trains."""
    own = list(module.parameters(recurse=False))
    return bool(own) and not any(parameter.requires_grad for parameter in own)


def _distributed(network: nn.Module, device: torch.device, compression: str) -> nn.Module:
    if world_size() == 1:
        return network
    parallel = data_parallel(network, device)
    compress_gradients(parallel, compression)
    return parallel
