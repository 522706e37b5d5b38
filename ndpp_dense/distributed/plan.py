"""What a training step takes on many GPUs, from parts that are measured on one."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ndpp_dense.layers.base import nd_layers

__all__ = ["Cluster", "Plan", "Work", "full_moment_bytes", "link_speed", "predict", "work_of"]

_UNITS = {"Gb": 1e9 / 8, "Mb": 1e6 / 8, "GB": 1e9, "MB": 1e6}


@dataclass(frozen=True)
class Work:
    """One rank's share of a step.

    Attributes:
        seconds: Of a step without any exchange, measured.
        backward_share: Share of it that the backward pass takes, in which gradients can travel.
        gradient_bytes: What is summed of gradients.
        moment_bytes: What is summed of statistics, a number a layer that exchanges them in this step.
    """

    seconds: float
    gradient_bytes: int
    moment_bytes: tuple[int, ...]
    backward_share: float = 0.6


@dataclass(frozen=True)
class Cluster:
    """Machines and what joins them.

    Attributes:
        gpus: All of them.
        nodes: Machines, among which they are divided evenly.
        link: Bytes a second between machines, in each direction.
        inside: Bytes a second between GPUs of a machine.
        latency: Seconds of one hop between machines; measured with an exchange of a few bytes.
        latency_inside: The same within a machine.
    """

    gpus: int
    nodes: int = 1
    link: float = 25e9
    inside: float = 200e9
    latency: float = 15e-6
    latency_inside: float = 5e-6

    def __post_init__(self) -> None:
        if self.gpus < 1 or self.nodes < 1 or self.gpus % self.nodes:
            raise ValueError(f"--gpus {self.gpus} do not divide evenly among --nodes {self.nodes}.")
        if min(self.link, self.inside) <= 0 or min(self.latency, self.latency_inside) < 0:
            raise ValueError("speeds must be positive and latencies not negative.")

    def sum_seconds(self, size: int) -> float:
        """Seconds that a sum of ``size`` bytes over all GPUs takes.

        Every byte passes the slowest link 2 (n - 1) / n times (ring); a message waits for the hops of a tree, up and
        down: within the machines and between them.
        """
        if self.gpus == 1:
            return 0.0
        speed = self.link if self.nodes > 1 else self.inside
        hops = 2 * (
            math.ceil(math.log2(self.gpus // self.nodes)) * self.latency_inside
            + math.ceil(math.log2(self.nodes)) * self.latency
        )
        return hops + 2 * (self.gpus - 1) / self.gpus * size / speed


@dataclass(frozen=True)
class Plan:
    """A predicted step.

    Attributes:
        seconds: Of the step.
        compute: Of it, without any exchange.
        gradients: Waiting for gradients that the backward pass does not hide.
        moments: Waiting for statistics.
        bytes_sent: What each GPU sends.
        collectives: Exchanges of statistics.
    """

    seconds: float
    compute: float
    gradients: float
    moments: float
    bytes_sent: float
    collectives: int

    @property
    def efficiency(self) -> float:
        """Share of the step that is not spent waiting."""
        return self.compute / self.seconds


def predict(work: Work, cluster: Cluster, overlapped: bool = False) -> Plan:
    """Predicts a step.

    Args:
        work: A rank's share.
        cluster: Where.
        overlapped: Whether statistics travel in one exchange beside the step instead of one a layer within it.
    """
    n, total = cluster.gpus, sum(work.moment_bytes)
    gradients = max(0.0, cluster.sum_seconds(work.gradient_bytes) - work.backward_share * work.seconds)
    if overlapped:
        moments = max(0.0, cluster.sum_seconds(total) - work.seconds)
    else:
        moments = sum(map(cluster.sum_seconds, work.moment_bytes))
    return Plan(
        work.seconds + gradients + moments,
        work.seconds,
        gradients,
        moments,
        2 * (n - 1) / n * (work.gradient_bytes + total),
        0 if n == 1 else 1 if overlapped else len(work.moment_bytes),
    )


def work_of(model: nn.Module, seconds: float, backward_share: float = 0.6) -> Work:
    """The share of a rank that trains a model.

    Args:
        model: With ND++ layers or without.
        seconds: Of a step on one GPU, measured.
        backward_share: Of these, for the backward pass.
    """
    gradients = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return Work(seconds, gradients, tuple(moment_bytes(model)), backward_share)


def moment_bytes(model: nn.Module) -> Sequence[int]:
    """Bytes that each synchronised ND++ layer sums over ranks: count, sum and one triangle, in the buffers' type."""
    found = []
    for _, layer in nd_layers(model):
        if layer.config.sync and not layer.whitening.frozen:
            blocks, dim = layer.whitening.running_mean.shape
            size = layer.whitening.running_mean.element_size()
            found.append(size * (1 + blocks * (dim + dim * (dim + 1) // 2)))
    return found


def full_moment_bytes(model: nn.Module) -> int:
    """What the sums of :func:`moment_bytes` would be in all, if both triangles of each matrix travelled.

    Counts and sums travel either way: with D columns a triangle saves all but ``1/2 + 1/(D + 1)`` of a message, the
    matrix by itself all but ``1/2 + 1/(2 D)``.
    """
    states = [layer.whitening for _, layer in nd_layers(model) if layer.config.sync and not layer.whitening.frozen]
    sizes = [(state.running_mean.element_size(), *state.running_mean.shape) for state in states]
    return sum(size * (1 + blocks * (dim + dim * dim)) for size, blocks, dim in sizes)


def link_speed(text: str) -> float:
    """Bytes a second of ``200Gb`` (bits, as networks are sold), ``25GB`` (bytes), ``100Mb`` or ``12MB``.

    Raises:
        ValueError: Anything else.
    """
    match = re.fullmatch(r"([0-9.]+)\s*(Gb|GB|Mb|MB)(?:/s|ps|it/s)?", text.strip())
    if match is None or float(match[1]) <= 0:
        raise ValueError(f"--link {text!r}: it must be a number with Gb or Mb (bits), GB or MB (bytes): 200Gb.")
    return float(match[1]) * _UNITS[match[2]]
