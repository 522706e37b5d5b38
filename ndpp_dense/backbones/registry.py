"""Making backbones by name."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from importlib import import_module

from torch import nn

from ndpp_dense.backbones.cards import CARDS, BackboneCard
from ndpp_dense.conversion.options import NDPPOptions
from ndpp_dense.layers.config import WhiteningConfig
from ndpp_dense.training.prepare import prepare

__all__ = ["backbone_card", "create_backbone", "list_backbones"]


def create_backbone(
    name: str, num_classes: int = 1000, ndpp: WhiteningConfig | None = None, *, output_stride: int = 32
) -> nn.Module:
    """Builds a classifier with random weights.

    Args:
        name: One of :func:`list_backbones`.
        num_classes: Classes, >= 0; 0 leaves the classifier out.
        ndpp: How to whiten all its linear layers in place of its batch norms; None leaves it as it is published.
        output_stride: 32, 16 or 8, of the last stage; ResNets only, whose stages are dilated to keep it.

    Returns:
        The model, on the current default device. After conversion ``model.ndpp_report`` says what was done.

    Raises:
        ValueError: Unknown name (the nearest is named), or an argument out of range.
        ModuleNotFoundError: timm is not installed.
    """
    card = backbone_card(name)
    if num_classes < 0:
        raise ValueError(f"num_classes = {num_classes}: it must be at least 0.")
    options = dict(card.options)
    if output_stride != 32:
        if card.builder != "resnet" or output_stride not in (8, 16):
            raise ValueError(
                f"output_stride = {output_stride} for {name!r}: ResNets can have 32, 16 or 8, other backbones only 32."
            )
        options["output_stride"] = output_stride
    model: nn.Module = _builder(card)(num_classes=num_classes, **options)
    if ndpp is not None:
        prepare(model, NDPPOptions(ndpp))
    return model


def list_backbones(pattern: str = "*") -> list[str]:
    """Names that fit a pattern.

    Args:
        pattern: With ``*``, ``?`` and ``[...]``, such as ``"resnet50_*"``.

    Returns:
        The names in alphabetical order; empty where none fits.
    """
    return sorted(name for name in CARDS if fnmatchcase(name, pattern))


def backbone_card(name: str) -> BackboneCard:
    """Size, cost, published accuracy and source of a backbone.

    Args:
        name: One of :func:`list_backbones`.

    Raises:
        ValueError: Unknown name; the nearest are given.
    """
    if name not in CARDS:
        near = get_close_matches(str(name).lower().replace("-", "_"), list(CARDS), n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"Unknown backbone {name!r}.{hint} Names: {', '.join(list_backbones())}.")
    return CARDS[name]


def _builder(card: BackboneCard) -> Callable[..., nn.Module]:
    try:
        return import_module(f"ndpp_dense.backbones.{card.builder}").build
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        message = f"Backbone {card.name!r} is built with timm, which is not installed: install ndpp-dense[pretrain]."
        raise ModuleNotFoundError(message, name="timm") from error
