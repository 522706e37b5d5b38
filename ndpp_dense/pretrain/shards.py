"""The samples of WebDataset shards in a folder, by where their bytes lie: nothing is unpacked or streamed.

A shard is a tar file of samples. A sample is all members whose paths agree up to the first dot of the name: an image
and ``.cls``, the class number in digits.
"""

from __future__ import annotations

import posixpath
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from timm.utils.misc import natural_key

from ndpp_dense.images.folders import SUFFIXES, is_hidden
from ndpp_dense.pretrain.archive import Span, check_end

__all__ = ["Sample", "find_shards", "read_shard"]


@dataclass
class Sample:
    """What a shard says of one sample.

    Attributes:
        images: Span by path; there must be one.
        label: Class number; None where there is no ``.cls``.
    """

    images: dict[str, Span] = field(default_factory=dict)
    label: int | None = None


def find_shards(root: Path, names: Sequence[str]) -> list[Path]:
    """Tar files of a split, in natural order.

    Args:
        root: Folder of shards, such as ``imagenet-train-0000.tar`` or ``train/0000.tar``.
        names: What the split may be called; one of them must be a word of the path.
    """
    words = re.compile(rf"(?:^|[^a-z])(?:{'|'.join(names)})(?:[^a-z]|$)")
    files = [file for file in root.rglob("*.tar") if not any(map(is_hidden, file.relative_to(root).parts))]
    found = [file for file in files if words.search(file.relative_to(root).as_posix().lower().removesuffix(".tar"))]
    return sorted(found, key=lambda file: natural_key(file.relative_to(root).as_posix()))


def read_shard(path: Path) -> list[tuple[str, Span, int]]:
    """Path, span and class number of every image, in the shard's order.

    Raises:
        ValueError: It is no whole tar file, or a sample has not one image and a class number; names the sample.
    """
    samples: dict[str, Sample] = {}
    try:
        with open(path, "rb") as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for info in tar:
                if info.isreg() and not any(map(is_hidden, PurePosixPath(info.name).parts)):
                    _keep(samples, info, tar)
            check_end(stream, tar.offset)
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"cannot read {path} as a shard of images: {error}.") from error
    for key, sample in samples.items():
        if len(sample.images) != 1 or sample.label is None:
            held = f"{len(sample.images)} images and {'no' if sample.label is None else 'a'} class number"
            raise ValueError(f"{path}: sample {key!r} has {held}: each must have one image and KEY.cls, in digits.")
    return [(*next(iter(sample.images.items())), sample.label or 0) for sample in samples.values()]


def _keep(samples: dict[str, Sample], info: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
    name = posixpath.normpath(info.name)
    folder, base = posixpath.split(name)
    key, _, suffix = base.partition(".")
    image, label = f".{suffix}".lower() in SUFFIXES, suffix.lower() == "cls"
    if not image and not label:  # other facts of the sample
        return
    sample = samples.setdefault(posixpath.join(folder, key), Sample())
    if image:
        sample.images[name] = (info.offset_data, info.size)
        return
    stream = tar.extractfile(info)
    text = stream.read(32).strip() if stream else b""
    if not text.isdigit():
        raise ValueError(f"{tar.name or 'a shard'}: {name} holds {text!r}, not a class number in digits.")
    sample.label = int(text)
