"""The images of an ImageNet tree, in a folder or in a tar file."""

from __future__ import annotations

import io
import logging
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
from PIL import Image
from timm.utils.misc import natural_key

from ndpp_dense.images import SUFFIXES, find_images, read_image
from ndpp_dense.images.reading import check_thickness
from ndpp_dense.pretrain.archive import Span, read_archive
from ndpp_dense.pretrain.processes import is_main

__all__ = ["ImageSet", "open_images"]

_SPLITS = {"train": ("train", "training"), "val": ("val", "validation", "valid")}
_LAYOUT = "train/CLASS/IMAGE and val/CLASS/IMAGE (or validation/CLASS/IMAGE)"
_log = logging.getLogger(__name__)


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
            ValueError: The image cannot be read, or is too thin; names the file.
        """
        with self._open(index) as stream:
            image = read_image(stream, self.where(index))
        check_thickness(image, self.where(index))
        return image, int(self.targets[index])

    def where(self, index: int) -> str:
        """Path of an image, in a tar file behind the file's own."""
        return str(self.root / self.names[index].decode())

    def _open(self, index: int) -> BinaryIO:
        if self.spans is None:
            return open(self.where(index), "rb")
        # Opened anew: forked loader processes would share an open file, position included.
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
    found = find_images(root)
    if not found.files:
        held = f" (it holds {found.left_out})" if found.left_out else ""
        raise ValueError(f"{root} holds no image that ends in {', '.join(SUFFIXES)}{held}. The layout is {_LAYOUT}.")
    _say_left_out(root, found.left_out)
    names = sorted((file.relative_to(root).as_posix() for file in found.files), key=natural_key)
    return _image_set(root, names)


def _from_tar(path: Path) -> list[ImageSet]:
    try:
        if path.suffix.lower() != ".tar":
            raise ValueError("its name does not end in .tar; unpack a compressed one")
        archive = read_archive(path)
    except (tarfile.TarError, OSError, ValueError) as error:
        raise ValueError(f"cannot read {path} as a tar file of images: {error}.") from error
    if not archive.images:
        held = f" (it holds {archive.left_out})" if archive.left_out else ""
        raise ValueError(f"cannot read {path} as a tar file of images: it holds no images{held}.")
    _say_left_out(path, archive.left_out)
    taken: set[str] = set()
    sets = []
    for split, folders in _SPLITS.items():
        chosen = [name for name in archive.images if PurePosixPath(name).parent.parent.name in folders]
        if not chosen:
            example = f" Its first image is {next(iter(archive.images))}."
            raise FileNotFoundError(f"{path} has no {split} images: it must hold {_LAYOUT}.{example}")
        taken.update(chosen)
        sets.append(_image_set(path, chosen, [archive.images[name] for name in chosen]))
    stray = [name for name in archive.images if name not in taken]
    if stray:
        _say_left_out(path, f"{len(stray)} images in no class folder of train or val (first: {stray[0]})")
    return sets


def _say_left_out(place: Path, what: str) -> None:
    if what and is_main():
        _log.warning("%s: left out are %s.", place, what)


def _image_set(root: Path, names: Sequence[str], spans: Sequence[Span] | None = None) -> ImageSet:
    """Numbers the classes as timm does."""
    folders = [PurePosixPath(name).parent.name for name in names]
    if "" in folders:
        raise ValueError(f"{root / names[folders.index('')]} is in no class folder: the layout is {_LAYOUT}.")
    classes = sorted(set(folders), key=natural_key)
    number = {name: index for index, name in enumerate(classes)}
    targets = np.array([number[folder] for folder in folders], dtype=np.int64)
    places = None if spans is None else np.array(spans, dtype=np.int64)
    return ImageSet(root, np.array([name.encode() for name in names]), targets, tuple(classes), places)


def _named(what: str, names: set[str]) -> str:
    shown = sorted(names)
    return f"{what}: {', '.join(shown[:5]) or 'none'}{f' and {len(shown) - 5} more' if len(shown) > 5 else ''}"
