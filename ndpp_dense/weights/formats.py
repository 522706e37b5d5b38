"""How timm, torchvision, Detectron2 and MMSegmentation name a backbone's weights, and what tells them apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ndpp_dense.backbones.cards import CARDS
from ndpp_dense.weights.files import SUFFIXES, WeightFile
from ndpp_dense.weights.match import HEADS

__all__ = [
    "FORMATS",
    "backbone_names",
    "cautions",
    "check_output",
    "detect_format",
    "target_names",
    "unwrapped",
    "usage",
]

FORMATS = ("timm", "torchvision", "detectron2", "mmseg")
CLASSIFIERS = ("timm", "torchvision")
_PREFIXES = {"detectron2": ("backbone.bottom_up.", "bottom_up.", "backbone."), "mmseg": ("backbone.",)}
_WRAPPERS = ("module.", "_orig_mod.")  # of DDP and torch.compile
# By which names to know a format, behind a prefix if there is one.
_SIGNS = {
    "detectron2": re.compile(r"(?:backbone\.)?(?:bottom_up\.)?(?:stem\.conv1\.|res[2-5]\.\d)"),
    "mmseg": re.compile(r"backbone\.(?:stem\.0|conv1|layer1)\.|stem\.0\."),
    "timm": re.compile(r"conv1\.|layer1\.\d"),
}
_IN_MMSEG = re.compile(r"(?:conv1|bn1|layer[1-4]\.\d+\.(?:conv[123]|bn[123]|downsample\.[01]))\.")
_BLOCKS = ("preset", "block_size", "block_size_spatial", "block_size_linear", "shared_blocks")
_CAFFE2 = re.compile(r"conv1_w$|res\d_\d+_branch\d\w_w$")
_RGB = "INPUT.FORMAT RGB MODEL.PIXEL_MEAN '[123.675,116.28,103.53]' MODEL.PIXEL_STD '[58.395,57.12,57.375]'"


def detect_format(file: WeightFile) -> tuple[str, str]:
    """Recognises the framework by what the file says, or else by its names.

    Args:
        file: The file.

    Returns:
        One of ``FORMATS``, and the reason in words.

    Raises:
        ValueError: The names are of no known framework.
    """
    if file.facts.get("format") in FORMATS:
        return file.facts["format"], "the file says so"
    names = list(unwrapped(file.entries))
    for form, sign in _SIGNS.items():
        found = next((name for name in names if sign.match(name)), None)
        if found is not None:
            also = " (torchvision has the same names)" if form == "timm" else ""
            return form, f"it has {found!r}{also}"
    if any(_CAFFE2.match(name) for name in names):
        raise ValueError(
            f"{file.path} has Caffe2's names ({names[0]}, ...), of the first Detectron. Load it into a Detectron2 "
            "model, save that, and convert the result."
        )
    raise ValueError(
        f"{file.path} has names of no known framework: {', '.join(names[:5])}, ... Name it with --from "
        f"({', '.join(FORMATS)}) if it is one of these."
    )


def check_output(path: str | Path, target: str, source: str | Path) -> None:
    """Refuses a path that the format cannot be written to, before any work is done.

    Args:
        path: Where to write: ``.pth``, or ``.safetensors`` for timm and torchvision.
        target: One of ``FORMATS``.
        source: The file that is read.

    Raises:
        ValueError: The suffix does not fit, or it is the file that is read.
    """
    path = Path(path)
    suffixes = SUFFIXES if target in CLASSIFIERS else SUFFIXES[:1]
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{target} reads no {path.suffix or 'file without a suffix'}: write {' or '.join(suffixes)}.")
    if path.resolve() == Path(source).resolve():
        raise ValueError(f"{path} is the file that is read: write to another.")


def unwrapped(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Entries by names without what DDP and torch.compile put before them all."""
    for wrapper in _WRAPPERS:
        if entries and all(name.startswith(wrapper) for name in entries):
            return unwrapped({name.removeprefix(wrapper): value for name, value in entries.items()})
    return dict(entries)


def backbone_names(names: Iterable[str], source: str) -> dict[str, str]:
    """The backbone's weights among those of a model.

    Args:
        names: Names in a file.
        source: Its format, one of ``FORMATS``.

    Returns:
        By the file's names, those of ``create_backbone``; a name that has none there stays as it is.

    Raises:
        ValueError: No name is of that format.
    """
    inside = _inside(list(names), source)
    rename = _renaming(source, inside.values())
    renamed = {name: rename(short) for name, short in inside.items()}
    if not any(renamed.values()):
        raise ValueError(f"None of {len(inside)} names is of {source}'s ResNet: {', '.join(list(inside)[:5])}, ...")
    return {name: renamed[name] or short for name, short in inside.items()}


def target_names(names: Iterable[str], target: str, model: str) -> dict[str, str]:
    """Names in a format.

    Args:
        names: Names as in ``create_backbone``.
        target: One of ``FORMATS``.
        model: Whose weights they are, for messages.

    Returns:
        The format's names by those given; without the classifier where the format has none.

    Raises:
        ValueError: The format has no place for a name.
    """
    if target in CLASSIFIERS:
        return {name: name for name in names}
    names = [name for name in names if not name.startswith(HEADS)]
    if target == "detectron2":
        from ndpp_dense.weights.detectron2_names import to_detectron2

        return {old: new for new, old in to_detectron2({name: name for name in names}).items()}
    from ndpp_dense.weights.mmseg_names import to_mmseg

    unknown = [name for name in names if not _IN_MMSEG.match(name)]
    if unknown:
        raise ValueError(
            f"MMSegmentation's ResNet has no place for {len(unknown)} of {len(names)} weights of {model}: "
            f"{', '.join(unknown[:5])}."
        )
    return {old: new for new, old in to_mmseg({name: name for name in names}).items()}


def usage(model: str, source: str, target: str, path: str | Path, whitened: bool = False) -> list[str]:
    """How to train from a file that was written.

    Args:
        model: Whose weights they are.
        source: Format that they came in.
        target: Format that was written.
        path: The file.
        whitened: Whether the weights have ND++ statistics.

    Returns:
        Lines of text; none for classifiers.
    """
    pattern = CARDS[model].options.get("pattern") if model in CARDS else None
    pools = pattern not in (None, "BBBB")
    config = "CONFIG_WITH_NDPP" if whitened else "CONFIG"
    if target == "mmseg":
        options = f"model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint={path}"
        options += f" model.backbone.type=PoolingResNet model.backbone.pattern={pattern}" if pools else ""
        return [f"use it with: tools/train_seg.py --config {config} --cfg-options {options}"]
    if target != "detectron2":
        return []
    settings = ["MODEL.RESNETS.STRIDE_IN_1X1 False"]
    if pools:
        settings.append(f"MODEL.BACKBONE.NAME build_pooling_resnet_fpn_backbone MODEL.POOLING.PATTERN {pattern}")
    settings += [_RGB] if source in CLASSIFIERS else []
    return [f"use it with: tools/train_net.py --config {config} MODEL.WEIGHTS {path} {' '.join(settings)}"]


def cautions(
    file: WeightFile, source: str, target: str, whitened: bool, settings: Mapping[str, Any] | None = None
) -> list[str]:
    """What could go wrong with converted weights unseen.

    Args:
        file: The file that was read.
        source: Its format.
        target: Format that was written.
        whitened: Whether the weights have ND++ statistics.
        settings: The ``ndpp`` settings that these were made with, where they are known.

    Returns:
        Lines of text.
    """
    lines = []
    if source == "detectron2" and target != source and not file.facts:
        lines.append(
            "note: Detectron2's own R-50.pkl and R-101.pkl (MSRA), and models trained from them, have strides in 1x1 "
            "convolutions and BGR images of 0 to 255. Their weights fit elsewhere by name and compute something else."
        )
    if whitened:
        blocks = ", ".join(f"{name}={settings[name]}" for name in _BLOCKS if name in settings) if settings else ""
        made = f" ({blocks})" if blocks else ""
        lines.append(
            f"note: ND++ statistics fit models with the same blocks only{made}: set them in the ndpp settings."
        )
    if whitened and settings and settings.get("rules"):
        lines.append(
            f"note: made with the ndpp rules {settings['rules']} (names as in timm). Give the model rules that do the "
            "same: weights made for another local scale load without an error."
        )
    return lines


def _inside(names: list[str], source: str) -> dict[str, str]:
    """Names of the backbone's weights, without its prefix."""
    for prefix in _PREFIXES.get(source, ()):
        inside = {name: name.removeprefix(prefix) for name in names if name.startswith(prefix)}
        if inside:
            return inside
    return {name: name for name in names}


def _renaming(source: str, names: Iterable[str]) -> Callable[[str], str | None]:
    if source == "detectron2":
        from ndpp_dense.weights.detectron2_names import from_detectron2

        return lambda name: _renamed(from_detectron2, name)
    if source == "mmseg":
        from ndpp_dense.weights.mmseg_names import from_mmseg

        return lambda name: _renamed(from_mmseg, name)
    # timm has the last norm of a deep stem beside it.
    if {"conv1.6.weight", "bn1.weight"} <= set(names):
        return lambda name: re.sub(r"^bn1\.", "conv1.7.", name)
    return lambda name: name


def _renamed(rename: Callable[[Mapping[str, Any]], Mapping[str, Any]], name: str) -> str | None:
    try:
        return next(iter(rename({name: None})))
    except ValueError:  # it has no place
        return None
