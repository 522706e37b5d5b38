"""What a benchmark consists of: settings, and suites of cases, in which peers do the same work."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Step = Callable[[], object]
Measure = Callable[[Step], float]


@dataclass(frozen=True)
class Settings:
    """What the command line says about a measurement.

    Attributes:
        device: ``cpu`` or ``cuda``.
        quick: Small sizes.
        threads: Of torch, on the CPU.
        rounds: That are kept, at most.
        warmup: Rounds that are dropped.
        budget: Seconds for a suite; at least three rounds are kept all the same.
        amp: Whether to compute in bfloat16 by autocast.
        channels_last: Whether images and weights are laid out so.
        graph: Whether to replay steps as CUDA graphs.
        profile: Whether to time the parts of ND++'s training step too.
        rehearse: Tiny sizes, of what else is measured on a GPU.
        images: Folder of the photographs that solvers are measured on; None generates street scenes.
    """

    device: str = "cpu"
    quick: bool = False
    threads: int = 1
    rounds: int = 10
    warmup: int = 1
    budget: float = 600.0
    amp: bool = False
    channels_last: bool = False
    graph: bool = False
    profile: bool = False
    rehearse: bool = False
    images: Path | None = None

    def autocast(self) -> contextlib.AbstractContextManager:
        """The precision that steps compute in."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.amp)

    def place(self, thing: Any) -> Any:
        """Moves a module or an image batch to the device, in the layout asked for."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return thing.to(self.device, memory_format=layout)


@dataclass(frozen=True)
class Case:
    """Peers at one size.

    Attributes:
        name: Of the size.
        peers: Builders of steps by label; the first is the baseline.
        unit: Of what is measured.
        measure: Maps a step to its value; None takes the device's clock.
        exact: Whether every round would give the same, so that one is enough.
        peak: Whether the peak of memory is taken too.
    """

    name: str
    peers: Mapping[str, Callable[[], Step]]
    unit: str = "s"
    measure: Measure | None = None
    exact: bool = False
    peak: bool = False


@dataclass(frozen=True)
class Suite:
    """A comparison.

    Attributes:
        says: What is compared, for the page and the figure.
        cases: From settings to the sizes.
        needs: Modules that it imports beyond torch.
        install: The command that installs them.
        quick: Whether it is among those that run where none is named.
    """

    says: str
    cases: Callable[[Settings], list[Case]]
    needs: tuple[str, ...] = ()
    install: str = ""
    quick: bool = True


def training_step(model: nn.Module, x: Tensor, settings: Settings) -> Step:
    """Forward and backward; the optimizer's step, alike for all peers, is left out."""

    def step() -> Tensor:
        with settings.autocast():
            loss = model(x).float().square().mean()
        loss.backward()
        model.zero_grad(set_to_none=True)
        x.grad = None
        return loss.detach()

    return step


def inference_step(model: nn.Module, x: Tensor, settings: Settings) -> Step:
    """Forward in evaluation mode, without gradients."""
    model.eval()

    def step() -> Tensor:
        with torch.inference_mode(), settings.autocast():
            return model(x)

    return step


def batches(settings: Settings) -> list[int]:
    """Of images at 224 pixels; 64 is for GPUs, a round of it would take minutes on a CPU."""
    return [1, 8, 64] if settings.device == "cuda" else [1, 8]


def images(batch: int, size: int, settings: Settings, channels: int = 3) -> Tensor:
    """Random images."""
    return settings.place(torch.randn(batch, channels, size, size))
