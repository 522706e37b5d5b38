"""Images and videos from files, and back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ndpp_dense.atomic_file import replacing
from ndpp_dense.images.folders import SUFFIXES, find_images

__all__ = ["VIDEOS", "Video", "images_in", "save_image", "write_video"]

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


def images_in(place: Path) -> tuple[list[Path], str]:
    """The image itself, or the images of a folder in order; and one line of what was left out of a folder.

    Raises:
        FileNotFoundError: There is nothing to read; names what is taken.
    """
    if place.is_file():
        return [place], ""
    if not place.is_dir():
        raise FileNotFoundError(f"{place} does not exist. Give an image ({', '.join(SUFFIXES)}), a folder or a video.")
    found = find_images(place)
    if not found.files:
        held = f" (it holds {found.left_out})" if found.left_out else ""
        raise FileNotFoundError(
            f"{place} holds no image{held}. Give an image ({', '.join(SUFFIXES)}), a folder or a video."
        )
    return list(found.files), found.left_out


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
