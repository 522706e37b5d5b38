"""Images and videos from files, and back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ndpp_dense.atomic_file import replacing

__all__ = ["IMAGES", "VIDEOS", "Video", "images_in", "read_image", "save_image", "write_video"]

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


def images_in(place: Path) -> list[Path]:
    """The image itself, or the images of a folder in order.

    Raises:
        FileNotFoundError: There is nothing to read; names what is taken.
    """
    if place.is_file():
        return [place]
    found = sorted(path for path in place.rglob("*") if path.suffix.lower() in IMAGES) if place.is_dir() else []
    if not found:
        what = "holds no image" if place.is_dir() else "does not exist"
        raise FileNotFoundError(f"{place} {what}. Give an image ({', '.join(IMAGES)}), a folder or a video.")
    return found


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8, RGB, upright.

    Raises:
        ValueError: It is no image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            return np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"cannot read {path} as an image: {error}") from error


def save_image(picture: np.ndarray, path: Path) -> None:
    """Writes (H, W, 3) uint8, RGB as PNG."""
    from PIL import Image

    with replacing(path) as made:
        Image.fromarray(picture).save(made, format="PNG")


@dataclass(frozen=True)
class Video:
    """A video file.

    Attributes:
        path: The file.
        frames: Their number, as the file states it; 0 where it does not.
        rate: Frames a second.
    """

    path: Path
    frames: int
    rate: float

    @classmethod
    def open(cls, path: Path) -> Video:
        """Reads what the file says about itself.

        Raises:
            ValueError: It is no video that can be read.
        """
        import cv2

        stream = cv2.VideoCapture(str(path))
        try:
            if not stream.isOpened():
                raise ValueError(f"cannot read {path} as a video: this OpenCV has no codec for it, or it is damaged.")
            return cls(path, max(0, int(stream.get(cv2.CAP_PROP_FRAME_COUNT))), stream.get(cv2.CAP_PROP_FPS) or 25.0)
        finally:
            stream.release()

    def __iter__(self) -> Iterator[np.ndarray]:
        """Frames, (H, W, 3) uint8, RGB."""
        import cv2

        stream = cv2.VideoCapture(str(self.path))
        try:
            while (read := stream.read())[0]:
                yield np.ascontiguousarray(read[1][:, :, ::-1])
        finally:
            stream.release()


def write_video(pictures: Iterator[np.ndarray], path: Path, rate: float) -> int:
    """Writes pictures of one size as MP4.

    Returns:
        Number of frames.

    Raises:
        ValueError: This OpenCV cannot write it.
    """
    import cv2

    count = 0
    with replacing(path) as made:
        writer = None
        for picture in pictures:
            height, width = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2  # the codec wants even sides
            if writer is None:
                writer = cv2.VideoWriter(str(made), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
            if not writer.isOpened():
                raise ValueError(f"cannot write {path}: this OpenCV has no codec for MP4. Give the frames as images.")
            writer.write(np.ascontiguousarray(picture[:height, :width, ::-1]))
            count += 1
        if writer is None:
            raise ValueError(f"{path} would be empty: the video has no frame that can be read.")
        writer.release()
    return count
