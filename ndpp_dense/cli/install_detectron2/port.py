"""The edits that let Detectron2's Python sources, 0.6 and later, run on what is current, without compiled ops.

Pure text in, text out, so that each edit can be tested alone; ``install.py`` applies them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["PLACEHOLDER", "edit_source", "edit_tree"]

_RESOURCES = """\
import importlib.resources


def _resource_filename(package, resource):
    return str(importlib.resources.files(package).joinpath(resource))

"""

_EXPORT = """\
try:
    from caffe2.python import core as _core  # optional, and gone from torch
except ImportError:
    pass
else:
    from .api import *
"""

_BLACK = """\
        try:
            import black
        except ImportError:  # optional: it only makes the text pretty
            black = None
"""

_EDITS: dict[str, tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = {
    # NumPy 1.24 removed these aliases of the builtins.
    "np alias -> builtin": (re.compile(r"\bnp\.(bool|int|float|object)\b"), r"\1"),
    # Pillow 10 removed LINEAR, which was another name for BILINEAR.
    "Image.LINEAR -> Image.BILINEAR": (re.compile(r"\bImage\.LINEAR\b"), "Image.BILINEAR"),
    # setuptools 82 removed pkg_resources.
    "import pkg_resources -> importlib.resources": (
        re.compile(r"^import pkg_resources\n", re.MULTILINE),
        lambda _: _RESOURCES,
    ),
    "pkg_resources.resource_filename -> importlib.resources": (
        re.compile(r"\bpkg_resources\.resource_filename\b"),
        "_resource_filename",
    ),
    # torch 2 derives its schedulers from LRScheduler, of which _LRScheduler is a subclass.
    "isinstance(..., _LRScheduler) -> LRScheduler": (
        re.compile(r"(isinstance\([\w.]+, torch\.optim\.lr_scheduler\.)_(LRScheduler\))"),
        r"\1\2",
    ),
    # Python 3.11 samples from no set.
    "sample from a set -> list": (
        re.compile(r"\.sample\((self\._fallback_candidates), k=1\)"),
        r".sample(list(\1), k=1)",
    ),
    # NumPy 2 raises where a copy cannot be avoided.
    "np.array(copy=False) -> np.asarray": (re.compile(r"\bnp\.array\((\w+), copy=False\)"), r"np.asarray(\1)"),
    "caffe2 -> optional": (re.compile(r"^from \.api import \*\n", re.MULTILINE), lambda _: _EXPORT),
    "import black -> optional": (re.compile(r"^        import black\n", re.MULTILINE), lambda _: _BLACK),
    "black.format_str -> where black is": (
        re.compile(r"(return (black)\.format_str\((\w+), mode=black\.Mode\(\)\))\n"),
        r"\1 if \2 else \3\n",
    ),
}

PLACEHOLDER = '''\
"""Stands where Detectron2's compiled ops would be: every op raises ``NotImplementedError`` with its name."""

import torch

_SCHEMAS = (
    "nms_rotated(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "box_iou_rotated(Tensor boxes1, Tensor boxes2) -> Tensor",
    "roi_align_rotated_forward(Tensor input, Tensor rois, float spatial_scale, int pooled_height, "
    "int pooled_width, int sampling_ratio) -> Tensor",
    "roi_align_rotated_backward(Tensor grad, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
    "int batch_size, int channels, int height, int width, int sampling_ratio) -> Tensor",
)


def _missing(name):
    def op(*args, **kwargs):
        raise NotImplementedError(
            f"detectron2._C.{name} is a compiled op and this Detectron2 was installed without compiled ops. "
            "Build Detectron2 from source, or avoid rotated boxes, deformable convolution and use_fast_impl=True."
        )

    op.__name__ = op.__qualname__ = name
    return op


def get_compiler_version():
    return "none (installed without compiled ops)"


def get_cuda_version():
    return "none (installed without compiled ops)"


def has_cuda():
    return False


def __getattr__(name):
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _missing(name)


_LIBRARY = torch.library.Library("detectron2", "DEF")
for _schema in _SCHEMAS:
    _LIBRARY.define(_schema)
    _name = _schema.split("(", 1)[0]
    _LIBRARY.impl(_name, _missing(_name), "CompositeExplicitAutograd")
'''


def edit_source(text: str) -> tuple[str, Counter[str]]:
    """Apply every edit to one source file.

    Args:
        text: Python source.

    Returns:
        The edited source and the number of replacements per kind of edit (kinds that did not occur are left out).
    """
    counts: Counter[str] = Counter()
    for kind, (pattern, replacement) in _EDITS.items():
        text, number = pattern.subn(replacement, text)
        if number:
            counts[kind] = number
    return text, counts


def edit_tree(package: Path) -> Iterator[tuple[Path, Counter[str]]]:
    """Edit every ``.py`` file below ``package`` in place and put the placeholder ``_C.py`` there.

    Args:
        package: the unpacked ``detectron2`` package folder.

    Yields:
        Each changed file, relative to ``package``, with its replacements per kind.
    """
    for path in sorted(package.rglob("*.py")):
        text, counts = edit_source(path.read_text(encoding="utf-8"))
        if counts:
            path.write_text(text, encoding="utf-8")
            yield path.relative_to(package), counts
    (package / "_C.py").write_text(PLACEHOLDER, encoding="utf-8")
