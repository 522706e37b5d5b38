"""What a row of the index may change in a config: the sizes of a network, how it is whitened, and how it sees images.

An index is data that may come from anywhere, and frameworks take much from a config that is more than data: a type that
is imported by name, files, folders to write to. So what is not known to be harmless is refused.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ndpp_dense.zoo.errors import ZooError

__all__ = ["check_overrides"]

_LONGEST = 1000  # letters of a word: what is nested deeper than it takes is no size of a network
# Those of ndpp_dense.conversion.options, which needs torch: an index is read without.
_NDPP = (
    "preset|task|rules|verify|block_size|block_size_spatial|block_size_linear|shared_blocks|local_scale|scale_steps|statistics"
    "|momentum|eps|solver|num_iters|grad|sampling_stride|sync|schedule"
)
_BACKBONE = "depth|stem_channels|base_channels|num_stages|strides|dilations|out_indices|pattern|contract_dilation"
_HEAD = "in_channels|in_index|channels|num_convs|num_classes|dilations|dropout_ratio|concat_input|align_corners"
_HEAD += "|c1_in_channels|c1_channels"
# Of every framework: none can do harm in the config of another.
_KNOWN = re.compile(
    "|".join(
        (
            rf"model\.ndpp\.(?:{_NDPP})",
            rf"model\.backbone\.(?:{_BACKBONE})",
            rf"model\.(?:decode|auxiliary)_head\.(?:{_HEAD})",
            r"model\.data_preprocessor\.(?:size|mean|std|bgr_to_rgb|pad_val|seg_pad_val)",
            r"(?:train|val|test)_dataloader\.(?:batch_size|num_workers|persistent_workers)",
            rf"MODEL\.NDPP\.(?:{_NDPP.upper()})",
            r"MODEL\.(?:MASK_ON|PIXEL_MEAN|PIXEL_STD)",
            r"MODEL\.(?:RESNETS|FPN|ANCHOR_GENERATOR|RPN|ROI_HEADS|ROI_BOX_HEAD|ROI_MASK_HEAD|RETINANET)\.(?!NAME$)[A-Z0-9_]+",
            r"MODEL\.POOLING\.PATTERN",
            r"INPUT\.(?:MASK_FORMAT|FORMAT|MIN_SIZE_TEST|MAX_SIZE_TEST)",
            r"TEST\.DETECTIONS_PER_IMAGE",
            r"DATALOADER\.NUM_WORKERS",
            rf"ndpp\.(?:{_NDPP})",
            r"num_classes|image_size|crop_pct|interpolation|channels_last|stats_batches",
        )
    )
)
_NAMES_CODE = re.compile(r"_.*|type|architecture|custom_imports|init_cfg|checkpoint|pretrained")
_TEXT = re.compile(r"[\w *.,:+-]{0,100}")


def check_overrides(words: Iterable[str], where: str) -> None:
    """Refuses overrides that are more than known settings with plain values.

    Args:
        words: ``KEY VALUE`` in turn, or each ``KEY=VALUE``.
        where: The row, for messages.

    Raises:
        ZooError: Names the first that is not, and why.
    """
    for key, text in _pairs(list(words), where):
        if not _KNOWN.fullmatch(key):
            raise ZooError(
                f"{where}: the override {key!r:.80} is none of what a row may change in a config: sizes of "
                "layers, how they are whitened, and how images are seen. Set it on the command line instead."
            )
        too_long = "which is too long" if len(text) > _LONGEST else ""
        reason = too_long or _fault(_value(text), nested=".ndpp." in f".{key.lower()}.")
        if reason:
            raise ZooError(f"{where}: the override {key!r} has the value {text!r:.80}, {reason}.")


def _pairs(words: list[str], where: str) -> Iterator[tuple[str, str]]:
    if words and "=" not in words[0]:
        if len(words) % 2:
            raise ZooError(f"{where}: its overrides are neither KEY=VALUE nor pairs of KEY and VALUE: {words!r:.80}.")
        yield from zip(words[::2], words[1::2], strict=True)
        return
    for word in words:
        key, sign, text = word.partition("=")
        if not sign:
            raise ZooError(f"{where}: the override {word!r:.80} is not KEY=VALUE.")
        yield key, text


def _value(text: str) -> Any:
    """As frameworks read it: a literal of Python, or else a text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _fault(value: Any, nested: bool) -> str:
    """Why a value is not plain; empty where it is."""
    if isinstance(value, bool | int | float | None):
        return ""
    if isinstance(value, str):
        return "" if _TEXT.fullmatch(value) else "which is no plain word"
    if isinstance(value, list | tuple):
        return next(filter(None, (_fault(item, nested) for item in value)), "")
    if not isinstance(value, Mapping) or not nested:
        return f"a {type(value).__name__}, where numbers, words and lists of them are taken"
    for key, item in value.items():
        if not isinstance(key, str) or _NAMES_CODE.fullmatch(key) or not _TEXT.fullmatch(key):
            return f"with the key {key!r:.40}, which could name code or files"
        if reason := _fault(item, nested):
            return reason
    return ""
