"""Stands where OpenCV would be while training steps are measured, which call none of it but read its constants.

MMEngine and MMCV read them when they are imported. Calling a function raises ``ImportError`` with its name.
"""

from typing import Any

__version__ = "0.0"


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name.isupper():
        return 0
    return _missing(name)


def _missing(name: str) -> Any:
    def function(*args: Any, **kwargs: Any) -> Any:
        raise ImportError(f"cv2.{name} was called, but OpenCV is not installed: pip install opencv-python-headless")

    return function
