"""Labelled images: of an ImageNet tree in a folder or a tar file, of WebDataset shards, of a Hugging Face data set."""

from __future__ import annotations

import io
import logging
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

import numpy as np
from PIL import Image
from timm.utils.misc import natural_key

from ndpp_dense.images import SUFFIXES, find_images, read_image
from ndpp_dense.images.reading import check_thickness
from ndpp_dense.pretrain.archive import Span, read_archive
from ndpp_dense.pretrain.processes import is_main
from ndpp_dense.pretrain.shards import find_shards, read_shard

__all__ = ["ImageSet", "Images", "open_images"]

_SPLITS = {"train": ("train", "training"), "val": ("val", "validation", "valid")}
_LAYOUT = "train/CLASS/IMAGE and val/CLASS/IMAGE (or validation/CLASS/IMAGE)"
_FORMS = f"a folder or a .tar file with {_LAYOUT}, wds/FOLDER with shards, or hfds/NAME of Hugging Face"
_STREAMS = ("hfids", "tfds", "torch")  # what timm reads too, but by no index
_log = logging.getLogger(__name__)


class Images(Protocol):
    """Labelled images of one split, by index: what a training that resumes exactly needs of them."""

    @property
    def root(self) -> Path:
        """Where they are."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes by number."""
        ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Decodes an image; returns it in RGB, and its class number."""
        ...


@dataclass(frozen=True)
class ImageSet:
    """Labelled images of one split.

    Names and places are arrays, which loader processes share instead of copying them object by object.

    Attributes:
        root: Folder of the split or of the shards, or the tar file.
        names: ``(N,)``, file names relative to the root, UTF-8 bytes.
        targets: ``(N,)``, class numbers.
        classes: Names of the classes by number.
        spans: ``(N, 3)``, number of the tar file, first byte and length of every image in tar files; None in a folder.
        archives: The tar files.
    """

    root: Path
    names: np.ndarray
    targets: np.ndarray
    classes: tuple[str, ...]
    spans: np.ndarray | None = None
    archives: tuple[Path, ...] = ()

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
        number, start, length = map(int, self.spans[index])
        with open(self.archives[number], "rb") as tar:
            tar.seek(start)
            return io.BytesIO(tar.read(length))


def open_images(path: str | Path, num_classes: int | None = None) -> tuple[Images, Images]:
    """Finds the images for training and for validation.

    Args:
        path: Folder or ``.tar`` file with ``train/CLASS/IMAGE`` and ``val/CLASS/IMAGE`` (or ``validation``);
            ``wds/FOLDER`` with WebDataset shards, whose paths have the word train or val; or ``hfds/NAME``, a data set
            that Hugging Face's ``datasets`` loads, by its name or a folder.
        num_classes: How many classes there must be; None takes any number.

    Returns:
        The training and the validation set, with equal classes in timm's (natural) order of names.

    Raises:
        FileNotFoundError: There is no such path, or it has no such folders.
        ValueError: The sets have no images or different classes, or their number is not as demanded.
    """
    train, val = _opened(path)
    if train.classes != val.classes:
        missing = _named("in train only", set(train.classes) - set(val.classes))
        added = _named("in val only", set(val.classes) - set(train.classes))
        raise ValueError(f"{path}: training and validation images have different classes: {missing}; {added}.")
    if num_classes is not None and num_classes != len(train.classes):
        raise ValueError(f"num_classes = {num_classes}, but {path} has {len(train.classes)} classes.")
    return train, val


def _opened(path: str | Path) -> Iterable[Images]:
    kind, _, rest = str(path).partition("/")
    if not Path(path).exists() and rest and kind.lower() in ("wds", "hfds", *_STREAMS):
        if kind.lower() == "wds":
            return _from_shards(Path(rest))
        if kind.lower() == "hfds":
            from ndpp_dense.pretrain.hub_images import open_hub

            return open_hub(rest, _SPLITS)
        raise ValueError(
            f"{path}: a {kind} data set is a stream without an order of its own, in which no run could be resumed "
            f"exactly. Give {_FORMS}."
        )
    path = Path(path)
    if not path.is_dir() and not path.is_file():
        raise FileNotFoundError(f"no images at {path}: give {_FORMS}.")
    return [_from_folder(path, split) for split in _SPLITS] if path.is_dir() else _from_tar(path)


def _from_shards(root: Path) -> list[ImageSet]:
    if not root.is_dir():
        raise FileNotFoundError(f"no folder of shards at {root}: shards are read from a folder, not from an address.")
    found = {}
    for split, words in _SPLITS.items():
        shards = find_shards(root, words)
        if not shards:
            held = ", ".join(sorted(entry.name for entry in root.iterdir())[:8]) or "nothing"
            raise FileNotFoundError(
                f"{root} has no .tar file with {' or '.join(words)} in its path; it holds {held}. Name shards such as "
                f"{split}-0000.tar or {split}/0000.tar."
            )
        found[split] = shards, [read_shard(shard) for shard in shards]
    labels = {label for _, contents in found.values() for samples in contents for *_, label in samples}
    classes = tuple(str(number) for number in range(max(labels, default=-1) + 1))
    return [_shard_set(root, classes, *parts) for parts in found.values()]


def _shard_set(
    root: Path, classes: tuple[str, ...], shards: list[Path], contents: list[list[tuple[str, Span, int]]]
) -> ImageSet:
    rows = [
        (f"{shard.relative_to(root).as_posix()}/{name}", (number, *span), label)
        for number, (shard, samples) in enumerate(zip(shards, contents, strict=True))
        for name, span, label in samples
    ]
    if not rows:
        raise ValueError(f"{root}: {len(shards)} shard(s), first {shards[0].name}, hold no images.")
    names, spans, labels = zip(*rows, strict=True)
    encoded = np.array([name.encode() for name in names])
    places = np.array(spans, dtype=np.int64)
    return ImageSet(root, encoded, np.array(labels, dtype=np.int64), classes, places, tuple(shards))


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
    places = None if spans is None else np.array([(0, *span) for span in spans], dtype=np.int64)
    archives = () if spans is None else (root,)
    return ImageSet(root, np.array([name.encode() for name in names]), targets, tuple(classes), places, archives)


def _named(what: str, names: set[str]) -> str:
    shown = sorted(names)
    return f"{what}: {', '.join(shown[:5]) or 'none'}{f' and {len(shown) - 5} more' if len(shown) > 5 else ''}"
