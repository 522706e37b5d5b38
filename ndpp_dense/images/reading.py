"""The one reader of image files: upright RGB of 8 bits, or an error that names the file."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

from PIL import ExifTags, Image, UnidentifiedImageError

from ndpp_dense.images.depth import check_colour_depth, to_eight_bits

__all__ = ["check_thickness", "opened", "read_image", "upright_size"]

# What Pillow's decoders are seen to raise on damaged files.
_DAMAGED = (OSError, SyntaxError, EOFError, ValueError, TypeError, IndexError, KeyError, OverflowError)
_DAMAGED += (struct.error, zlib.error, MemoryError, Image.DecompressionBombError)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = (5, 6, 7, 8)
_SUBFILE_TYPE, _SAMPLES_PER_PIXEL = 254, 277  # tags of TIFF
_LAYOUT = "ndpp_layout"  # in the info of an image: how its samples lay in the file
_MOST_UNEQUAL = 200  # longer side by the shorter
_ADVICE = "Restore, convert or remove it."


def read_image(source: str | os.PathLike[str] | IO[bytes], name: str | None = None) -> Image.Image:
    """Reads an image file as every tool of this package sees it.

    The orientation of EXIF is applied; palettes, CMYK and grey become RGB; alpha is dropped. Images of more than 8 bits
    are brought to 8: unsigned ones by their depth (65535 becomes 255), others by the range that ``NDPP_IMAGE_RANGE``
    states. The log says once which range was used.

    Args:
        source: A path, or a stream of bytes that can seek.
        name: What to call it in errors; None takes the path.

    Returns:
        The image, mode RGB, loaded.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, of more than one picture or of bands that are no colours, or its depth says not
            what is white. Names the file.
    """
    with opened(source, name, "image") as image:
        _check_channels(image)
        tags, layout = dict(getattr(image, "tag_v2", {})), image.info[_LAYOUT]
        upright = _upright(image)
        if upright.mode == "F" or upright.mode.startswith("I"):
            upright = to_eight_bits(upright, str(name or source), image.format or "", tags)
        else:
            check_colour_depth(layout, str(name or source))
        # By way of RGBA: Pillow warns of a palette with transparent entries, which changes no colour.
        return (upright.convert("RGBA") if upright.mode in ("P", "PA") else upright).convert("RGB")


def upright_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """The width and height that :func:`read_image` gives a file; its pixels are not decoded.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no image, or its first bytes are damaged. Names the file.
    """
    subject = f"cannot read image {path}"
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in _ON_ITS_SIDE
    except FileNotFoundError:
        raise FileNotFoundError(f"{subject}: there is no such file.") from None
    except _DAMAGED as error:
        raise ValueError(f"{subject}: {_reason(error, path)}. {_ADVICE}") from error
    return (height, width) if turned else (width, height)


def check_thickness(image: Image.Image, name: str) -> None:
    """Refuses an image that would take gigabytes when its shorter side is brought to the size of a crop.

    Args:
        image: As read.
        name: Of the file.

    Raises:
        ValueError: Names file and size.
    """
    if max(image.size) > _MOST_UNEQUAL * min(image.size):
        raise ValueError(
            f"image {name}: {image.width} x {image.height} pixels are too thin: one side is over {_MOST_UNEQUAL} times "
            "the other. Remove or cut it."
        )


@contextmanager
def opened(source: str | os.PathLike[str] | IO[bytes], name: str | None, what: str) -> Iterator[Image.Image]:
    """Opens and decodes a file; whatever goes wrong within is an error that names it.

    Args:
        source: A path, or a stream of bytes that can seek.
        name: What to call it in errors; None takes the path.
        what: "image" or "labels".

    Yields:
        The image as it is in the file, loaded.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or holds several pictures.
    """
    subject = f"cannot read {what} {name or source}"
    try:
        with open(source, "rb") if isinstance(source, str | os.PathLike) else nullcontext(source) as stream:
            _check_sums(stream)
            with Image.open(stream) as image:
                image.info[_LAYOUT] = str(image.tile)  # gone once it is loaded
                _check_frames(image)
                image.load()
                yield image
    except FileNotFoundError:
        raise FileNotFoundError(f"{subject}: there is no such file.") from None
    except _DAMAGED as error:
        raise ValueError(f"{subject}: {_reason(error, source)}. {_ADVICE}") from error


def _check_sums(stream: IO[bytes]) -> None:
    """Compares a PNG's checksums: Pillow passes over damage behind the pixels, such as of the orientation."""
    if stream.read(4) == b"\x89PNG":
        stream.seek(0)
        with Image.open(stream) as image:
            image.verify()
    stream.seek(0)


def _check_frames(image: Image.Image) -> None:
    count = getattr(image, "n_frames", 1)
    if count == 1 or image.format == "MPO":  # of cameras: the others are previews of the first
        return
    if image.format == "TIFF":
        pages: Any = image
        full = 0
        for number in range(count):
            pages.seek(number)
            full += not pages.tag_v2.get(_SUBFILE_TYPE, 0) & 1  # the others are smaller copies
        pages.seek(0)
        count = full
    if count > 1:
        raise ValueError(f"it holds {count} pictures ({image.format}), and one is expected; write each to its own file")


def _check_channels(image: Image.Image) -> None:
    samples = getattr(image, "tag_v2", {}).get(_SAMPLES_PER_PIXEL, 3)
    if image.mode == "RGB" and samples > 3:
        raise ValueError(f"it has {samples} channels, {samples - 3} of which would be dropped; write three, as RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _DAMAGED:  # the picture itself was decoded: only what is written beside it is damaged
        return image
    return image if turn is None else image.transpose(turn)


def _reason(error: BaseException, source: Any) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return (
            f"it is larger than Pillow takes for safe ({' '.join(str(error).split()).rstrip('.')}); cut it into tiles"
        )
    if isinstance(error, UnidentifiedImageError):
        return _unidentified(source)
    text = str(error) or type(error).__name__
    return text.rstrip(".")


def _unidentified(source: Any) -> str:
    start = b""
    if isinstance(source, str | os.PathLike):
        with Path(source).open("rb") as stream:
            start = stream.read(4)
    elif not source.closed:
        source.seek(0)
        start = source.read(4)
    if not start:
        return "the file is empty (0 bytes)"
    if start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "a TIFF of bands or samples that Pillow does not read; write 1 or 3 channels of 8 or 16 bits"
    return "it is no image of a kind that Pillow reads"
