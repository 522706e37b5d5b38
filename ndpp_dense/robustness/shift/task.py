"""What a task has to say about answers to moved pictures: how they move, and what is counted of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from ndpp_dense.robustness.shift.borders import Shift

__all__ = ["Frame", "Images", "Measure", "ShiftTask", "Subject", "SubjectRequest", "ratio"]


@dataclass(frozen=True)
class Frame:
    """How a picture was moved.

    Attributes:
        size: Height and width of the frame in pixels.
        shift: Rows down and columns to the right.
        border: What came in at the border.
    """

    size: tuple[int, int]
    shift: Shift
    border: str


@dataclass(frozen=True)
class Measure:
    """A figure that is a function of counts added up over images, so that images can be drawn anew.

    Attributes:
        name: Such as ``"accuracy"``.
        size: How many counts an image has.
        value: From sums ``(..., size)`` to the figure ``(...)``, a share of 1; NaN where nothing was counted.
        needs_target: Whether it can be had of labelled images only.
    """

    name: str
    size: int
    value: Callable[[np.ndarray], np.ndarray]
    needs_target: bool = False


class ShiftTask(Protocol):
    """A task, such as classification."""

    name: str
    measures: tuple[Measure, ...]  # the first one is the task's own: the one that the paper asks for

    def check(self, answer: Any) -> str:
        """What is wrong with an answer; empty where it can be used."""
        ...

    def move(self, answer: Any, frame: Frame) -> Any:
        """The answer, or the target, of a picture moved as its picture is; what has left the frame is left out."""
        ...

    def crop(self, answer: Any, frame: Frame) -> Any:
        """The answer to a moved picture without what it says of the border."""
        ...

    def counts(self, answer: Any, reference: Any, target: Any) -> Mapping[str, np.ndarray]:
        """The counts of each measure for an image.

        Args:
            answer: To the moved picture.
            reference: To the picture as it is, moved.
            target: Moved; None where the image has no label.

        Returns:
            ``(size,)`` by name; measures that need a target are left out where there is none.
        """
        ...


class Images(Protocol):
    """Pictures by number."""

    def __len__(self) -> int:
        """Their number."""
        ...

    def __getitem__(self, number: int) -> tuple[Tensor, Any]:
        """A picture ``(C, H, W)``, black where it is 0, and its target or None."""
        ...


@dataclass(frozen=True)
class Subject:
    """A model with its pictures, ready to be measured.

    Attributes:
        name: For titles and file names.
        predict: From pictures, ``(N, C, H, W)`` or, where they differ in size, as a list, to one answer each.
        images: The pictures.
        task: What the answers are.
        stride: Pixels of the input to a step of the last feature map.
        facts: What decides the results, for records: weights, settings, data.
    """

    name: str
    predict: Callable[[Tensor | Sequence[Tensor]], Sequence[Any]]
    images: Images
    task: ShiftTask
    stride: int = 32
    facts: Mapping[str, Any] = field(default_factory=dict)


def ratio(sums: np.ndarray) -> np.ndarray:
    """The first count over the second; NaN where that is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.nan)


@dataclass(frozen=True)
class SubjectRequest:
    """What somebody asks to measure, in words that every framework takes or refuses.

    Attributes:
        weights: File, or ``ndpp://NAME``; empty for those that a named model comes with.
        config: Name or path of the config that they were trained with; None takes that of the row in the model zoo.
        model: Instead, a model's name in a framework that has such.
        data: Folder or file of the images; None for what the config names by itself.
        datasets: ``NAME=JSON:IMAGES`` values.
        overrides: Settings in place of the config's.
        device: Where to run.
        limit: Take so many images, spread evenly; None takes all.
        score: Boxes below it do not count for agreement.
    """

    weights: str = ""
    config: str | None = None
    model: str | None = None
    data: str | None = None
    datasets: Sequence[str] = ()
    overrides: Sequence[str] = ()
    device: str = "cpu"
    limit: int | None = None
    score: float = 0.5
