"""The images of an ImageNet tree, in a folder or in a tar file, found with timm's readers."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from timm.data.readers.reader_factory import create_reader
from timm.utils.misc import natural_key

__all__ = ["ImageSet", "open_images"]

_SPLITS = {"train": ("train", "training"), "val": ("val", "validation", "valid")}
_LAYOUT = "train/CLASS/IMAGE and val/CLASS/IMAGE (or validation/CLASS/IMAGE)"
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True)
class ImageSet:
    """Labelled images of one split.

    Names and places are arrays, which loader processes share instead of copying them object by object.

    Attributes:
        root: Folder of the split, or the tar file.
        names: ``(N,)``, file names relative to the root, UTF-8 bytes.
        targets: ``(N,)``, class numbers.
        classes: Names of the classes by number.
        spans: ``(N, 2)``, first byte and length of every image in a tar file; None in a folder.
    """

    root: Path
    names: np.ndarray
    targets: np.ndarray
    classes: tuple[str, ...]
    spans: np.ndarray | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.names)

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Decodes an image.

        Args:
            index: 0 to N - 1.

        Returns:
            The image in RGB and its class number.

        Raises:
            ValueError: The image cannot be read; names the file.
        """
        try:
            with self._open(index) as stream, Image.open(stream) as image:
                return image.convert("RGB"), int(self.targets[index])
        except _UNREADABLE as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"cannot read image {self.where(index)} ({reason}). Replace or remove it.") from error

    def where(self, index: int) -> str:
        """Path of an image, in a tar file behind the file's own."""
        return str(self.root / self.names[index].decode())

    def _open(self, index: int) -> BinaryIO:
        if self.spans is None:
            return open(self.where(index), "rb")
        # Not through the reader, whose open tar file forked loader processes would share, position included.
        start, length = map(int, self.spans[index])
        with open(self.root, "rb") as tar:
            tar.seek(start)
            return io.BytesIO(tar.read(length))


def open_images(path: str | Path, num_classes: int | None = None) -> tuple[ImageSet, ImageSet]:
    """Finds the images for training and for validation.

    Args:
        path: Folder or ``.tar`` file with ``train/CLASS/IMAGE`` and ``val/CLASS/IMAGE`` (or ``validation``).
        num_classes: How many classes there must be; None takes any number.

    Returns:
        The training and the validation set, with equal classes in timm's (natural) order of names.

    Raises:
        FileNotFoundError: There is no such path, or it has no such folders.
        ValueError: The sets have no images or different classes, or their number is not as demanded.
    """
    path = Path(path)
    if not path.is_dir() and not path.is_file():
        raise FileNotFoundError(f"no images at {path}: give a folder or a .tar file with {_LAYOUT}.")
    train, val = (_from_folder(path, split) for split in _SPLITS) if path.is_dir() else _from_tar(path)
    if train.classes != val.classes:
        missing = _named("in train only", set(train.classes) - set(val.classes))
        added = _named("in val only", set(val.classes) - set(train.classes))
        raise ValueError(f"{path}: training and validation images have different classes: {missing}; {added}.")
    if num_classes is not None and num_classes != len(train.classes):
        raise ValueError(f"num_classes = {num_classes}, but {path} has {len(train.classes)} classes.")
    return train, val


def _from_folder(path: Path, split: str) -> ImageSet:
    root = next((path / name for name in _SPLITS[split] if (path / name).is_dir()), None)
    if root is None:
        found = sorted(entry.name for entry in path.iterdir())
        raise FileNotFoundError(
            f"{path} has no folder {' or '.join(_SPLITS[split])}; it holds {', '.join(found[:8]) or 'nothing'}. "
            f"Give a folder or a .tar file with {_LAYOUT}."
        )
    try:
        reader: Any = create_reader("", root=str(root))
    except RuntimeError as error:
        raise ValueError(f"{root}: {error}.") from error
    names = [Path(name).relative_to(root).as_posix() for name, _ in reader.samples]
    return _image_set(root, names)


def _from_tar(path: Path) -> list[ImageSet]:
    try:
        if path.suffix.lower() != ".tar":
            raise ValueError("its name does not end in .tar; unpack a compressed one")
        reader: Any = create_reader("", root=str(path))
    except (tarfile.TarError, OSError, ValueError, AssertionError) as error:
        reason = "it holds no images" if "unpack (expected" in str(error) else str(error)
        raise ValueError(f"cannot read {path} as a tar file of images: {reason}.") from error
    inner = [_inner_path(sample) for sample in reader.samples]
    sets = []
    for split, folders in _SPLITS.items():
        chosen = [i for i, name in enumerate(inner) if PurePosixPath(name).parent.parent.name in folders]
        if not chosen:
            example = f" Its first image is {inner[0]}." if inner else ""
            raise FileNotFoundError(f"{path} has no {split} images: it must hold {_LAYOUT}.{example}")
        spans = np.array([_span(reader.samples[i]) for i in chosen], dtype=np.int64)
        sets.append(_image_set(path, [inner[i] for i in chosen], spans))
    return sets


def _image_set(root: Path, names: Iterable[str], spans: np.ndarray | None = None) -> ImageSet:
    """Numbers the classes as timm does."""
    names = list(names)
    folders = [PurePosixPath(name).parent.name for name in names]
    if "" in folders:
        raise ValueError(f"{root / names[folders.index('')]} is in no class folder: the layout is {_LAYOUT}.")
    classes = sorted(set(folders), key=natural_key)
    number = {name: index for index, name in enumerate(classes)}
    targets = np.array([number[folder] for folder in folders], dtype=np.int64)
    return ImageSet(root, np.array([name.encode() for name in names]), targets, tuple(classes), spans)


def _named(what: str, names: set[str]) -> str:
    shown = sorted(names)
    return f"{what}: {', '.join(shown[:5]) or 'none'}{f' and {len(shown) - 5} more' if len(shown) > 5 else ''}"


def _inner_path(sample: Any) -> str:
    """Path within a tar file; a tar file within it counts as a folder."""
    info, _, child = sample
    return str(PurePosixPath(PurePosixPath(child.name).with_suffix("") if child else "", info.name))


def _span(sample: Any) -> tuple[int, int]:
    info, _, child = sample
    return info.offset_data + (child.offset_data if child else 0), info.size
