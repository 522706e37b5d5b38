"""Detectron2's data set mapper, which names the file when an image cannot be read."""

from __future__ import annotations

import struct
import zlib
from typing import IO, Any, cast

from detectron2.data import DatasetMapper
from detectron2.utils.file_io import PathManager
from PIL import Image

# What Pillow's decoders are seen to raise on damaged files, beside OSError.
_READ_ERRORS = (OSError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


class CheckedDatasetMapper(DatasetMapper):
    """Detectron2's `DatasetMapper`; a missing or damaged image raises an error that names the file."""

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any] | None:
        """Maps one record of a data set to the input of a model.

        Args:
            dataset_dict: one record in Detectron2's format.

        Returns:
            What `DatasetMapper` returns.

        Raises:
            FileNotFoundError: the image does not exist.
            OSError: the image cannot be decoded.
        """
        try:
            _verify_png(dataset_dict["file_name"])
            return super().__call__(dataset_dict)
        except _READ_ERRORS as error:
            files = [str(dataset_dict[key]) for key in ("file_name", "sem_seg_file_name") if dataset_dict.get(key)]
            kind = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
            raise kind(
                f"cannot read image {' or '.join(files)} (image_id {dataset_dict.get('image_id')}): "
                f"{type(error).__name__}: {error}. Restore the file, or remove its entry from the annotations."
            ) from error


def _verify_png(file_name: str) -> None:
    """Compares a PNG's checksums, without decoding it.

    Pillow decodes a PNG to look for its orientation. Detectron2 drops the error of a damaged file there, and goes on
    with what was decoded so far, black for the rest.
    """
    if file_name.lower().endswith(".png"):
        with PathManager.open(file_name, "rb") as stream, Image.open(cast("IO[bytes]", stream)) as image:
            image.verify()
