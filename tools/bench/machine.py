"""Where something was measured, and what the file of it is called."""

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from records import provenance

from bench.case import Settings

PACKAGES = (
    *("torch", "torchvision", "triton", "timm", "numpy", "pillow", "pytest", "detectron2", "fvcore", "pycocotools"),
    *("mmengine", "mmcv-lite", "mmsegmentation", "opencv-python-headless", "opencv-python"),
)


def stem(suite: str, settings: Settings) -> str:
    """Name of the files of a suite: what was measured where."""
    where = "cuda" if settings.device == "cuda" else f"cpu_{settings.threads}t"
    chosen = [name for name in ("amp", "channels_last", "graph", "quick", "rehearse") if getattr(settings, name)]
    return "_".join([suite, where, *chosen])


def machine(settings: Settings) -> dict[str, Any]:
    """Hardware, software and load at this moment."""
    found: dict[str, Any] = {**provenance(settings.threads), "torch": torch.__version__, "load": list(os.getloadavg())}
    found["python"] = sys.version.split()[0]
    if settings.device == "cuda":
        found["hardware"] = f"{torch.cuda.get_device_name()} ({found['hardware']})"
        found |= {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "memory_GB": torch.cuda.get_device_properties(0).total_memory / 1e9,
            "tf32_of_products": torch.backends.cuda.matmul.allow_tf32,
            "tf32_of_convolutions": torch.backends.cudnn.allow_tf32,
            "convolutions_tried_out": torch.backends.cudnn.benchmark,
        }
    return found


def installed() -> dict[str, str]:
    """Versions of what is measured with, where it is installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found
