"""Whether weights are exactly those of a backbone, and of which one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from ndpp_dense.backbones.cards import CARDS, BackboneCard
from ndpp_dense.backbones.registry import create_backbone
from ndpp_dense.conversion.convert import convert_to_ndpp
from ndpp_dense.conversion.norm_pairs import linear_kind
from ndpp_dense.layers.config import WhiteningConfig

__all__ = ["HEADS", "Differences", "build_model", "compare", "find_model", "num_classes", "whitened_layers"]

HEADS = ("fc.", "head.fc.", "head.", "classifier.")  # what classifiers are called, longer names first
COUNTER = ".num_batches_tracked"
_WHITENING = ".whitening."
_MEAN = f"{_WHITENING}running_mean"
# ResNets that timm and torchvision publish and Detectron2 and MMSegmentation can hold, beside those with a card.
_PUBLISHED = {
    "resnet34": (3, 4, 6, 3),
    "resnet152": (3, 8, 36, 3),
    "wide_resnet50_2": (3, 4, 6, 3),
    "wide_resnet101_2": (3, 4, 23, 3),
    "resnext50_32x4d": (3, 4, 6, 3),
    "resnext101_32x8d": (3, 4, 23, 3),
}


@dataclass(frozen=True)
class Differences:
    """What keeps weights from being those of a backbone.

    Attributes:
        missing: Names that the backbone has and the weights have not.
        left_over: Names that the backbone has not, with the nearest that it has, or None.
        wrong: Names of another shape, with both shapes in words.
    """

    missing: list[str] = field(default_factory=list)
    left_over: dict[str, str | None] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of names."""
        return len(self.missing) + len(self.left_over) + len(self.wrong)


def compare(entries: Mapping[str, Tensor], model: str) -> Differences:
    """Compares names and shapes of weights with a backbone's.

    Layers with ND++ statistics must be whole and their norms gone; their blocks may have any size that fits the layer.
    A missing count of batches of a norm is no difference: it does not enter the function.

    Args:
        entries: Weights by the backbone's names.
        model: One of ``list_backbones()``, or a model of timm's.

    Raises:
        ValueError: Unknown model.
    """
    expected = _shapes(model, num_classes(entries), whitened_layers(entries))
    missing = [name for name in expected.keys() - entries.keys() if not name.endswith(COUNTER)]
    places = sorted(missing) or list(expected)
    left_over = [name for name in entries if name not in expected]
    wrong = {
        name: f"{tuple(entries[name].shape)}, not {tuple(shape)}"
        for name, shape in expected.items()
        if name in entries and not _fits(name, entries, shape)
    }
    order = {name: index for index, name in enumerate(expected)}
    return Differences(sorted(missing, key=order.__getitem__), dict(_with_nearest(left_over, places)), wrong)


def find_model(entries: Mapping[str, Tensor]) -> tuple[str, Differences]:
    """The ResNet, or the pooling transformer, whose weights these are, or the nearest one.

    Args:
        entries: Weights by names as ``create_backbone`` has them.

    Returns:
        Its name and how the weights differ from its.

    Raises:
        ValueError: The weights are not a ResNet's of a known depth, nor a transformer's.
    """
    best: tuple[str, Differences] | None = None
    for name in _candidates(entries):
        differences = compare(entries, name)
        if best is None or len(differences) < len(best[1]):
            best = name, differences
        if not differences:
            break
    if best is None:
        first = ", ".join(list(entries)[:3])
        raise ValueError(
            f"No ResNet of a known depth has weights named like these ({first}, ...; blocks by stage: "
            f"{_depths(entries)}). Name the model with --model."
        )
    return best


def whitened_layers(entries: Iterable[str]) -> set[str]:
    """Names of the layers that have ND++ statistics."""
    return {name.removesuffix(_MEAN) for name in entries if name.endswith(_MEAN)}


def num_classes(entries: Mapping[str, Tensor]) -> int:
    """Outputs of the classifier; 0 where there is none."""
    names = [f"{head}weight" for head in HEADS if f"{head}weight" in entries]
    return len(entries[names[0]]) if names else 0


def build_model(name: str, classes: int) -> nn.Module:
    """A backbone with random weights: this package's, or timm's where only timm has the name.

    Args:
        name: One of ``list_backbones()``, or a model of timm's.
        classes: Classes; 0 leaves the classifier out.

    Raises:
        ValueError: Unknown name.
    """
    if name not in CARDS:
        import timm

        if timm.is_model(name):
            return timm.create_model(name, num_classes=classes)
    return create_backbone(name, classes)


def _shapes(model: str, classes: int, whitened: set[str]) -> dict[str, torch.Size]:
    with torch.device("meta"):
        network = build_model(model, classes)
        rules: dict[Any, Any] = {
            name: name in whitened for name, module in network.named_modules() if linear_kind(module)
        }
        if any(rules.values()):
            convert_to_ndpp(network, WhiteningConfig(), rules)
    return {name: value.shape for name, value in network.state_dict().items()}


def _fits(name: str, entries: Mapping[str, Tensor], expected: torch.Size) -> bool:
    """Whether the shape is as expected; of statistics, whether their blocks divide the layer's columns."""
    shape = entries[name].shape
    if _WHITENING not in name or not expected or not shape:
        return shape == expected
    mean = entries.get(f"{name.rpartition(_WHITENING)[0]}{_MEAN}")
    if mean is None or mean.dim() != 2 or 0 in mean.shape:
        return False
    blocks, dim = mean.shape
    columns = expected[0] * expected[1]
    whole = blocks * dim == columns or (blocks == 1 and columns % dim == 0)  # or shared by all blocks
    return whole and shape == (blocks, *[dim] * (len(expected) - 1))


def _with_nearest(names: list[str], places: list[str]) -> Iterator[tuple[str, str | None]]:
    for index, name in enumerate(names):
        near = get_close_matches(name, places, n=1) if index < 10 else []  # the search is slow, and few are read
        yield name, near[0] if near else None


def _candidates(entries: Mapping[str, Tensor]) -> list[str]:
    if any(name.startswith("patch_embed.") for name in entries):
        return [name for name, card in CARDS.items() if card.builder == "transformer"]
    depths = _depths(entries)
    cards = [name for name, card in CARDS.items() if card.builder == "resnet" and _could_be(card, depths, entries)]
    return cards + [name for name, counts in _PUBLISHED.items() if counts == depths and "conv1.0.weight" not in entries]


def _could_be(card: BackboneCard, depths: tuple[int, ...], entries: Mapping[str, Tensor]) -> bool:
    options = card.options
    return (
        tuple(options["depths"]) == depths
        and (options["pattern"] is None) == ("layer1.0.conv3.weight" not in entries)
        and ("stem_type" in options) == ("conv1.0.weight" in entries)
    )


def _depths(entries: Iterable[str]) -> tuple[int, ...]:
    """Blocks of each stage."""
    parts = [name.split(".") for name in entries if name.startswith("layer")]
    last: dict[str, int] = {}
    for part in parts:
        if len(part) > 2 and part[1].isdigit():
            last[part[0]] = max(last.get(part[0], 0), int(part[1]) + 1)
    return tuple(count for _, count in sorted(last.items()))
