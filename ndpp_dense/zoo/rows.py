"""One row of the model zoo's index, and the checks of its fields."""

from __future__ import annotations

import math
import re
from dataclasses import MISSING, dataclass, fields
from typing import Any
from urllib.parse import urlsplit

from ndpp_dense.zoo.errors import ZooError
from ndpp_dense.zoo.overrides import check_overrides

__all__ = ["FORMATS", "Metric", "ZooFile", "ZooModel", "is_address", "read_model"]

FORMATS = ("safetensors", "pth")  # in the order in which they are taken
SOURCES = ("measured", "published")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_CONFIG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")  # without a suffix: a file of another folder is never meant
_VERSION = re.compile(r"\d{1,4}(?:\.\d{1,4}){0,3}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_SIZE = 1 << 40
_MAX_SIDE = 1 << 14


@dataclass(frozen=True)
class ZooFile:
    """A file of weights.

    Attributes:
        name: Plain file name.
        sha256: Of its bytes.
        size: In bytes.
        format: One of ``FORMATS``.
        urls: Where it is: absolute (http, https) or relative to a base or mirror.
    """

    name: str
    sha256: str
    size: int
    format: str
    urls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Metric:
    """A figure.

    Attributes:
        name: Such as ``segm/AP``, as the evaluation of the framework names it.
        value: In per cent.
        data: What it was evaluated on.
        source: ``measured`` with these weights, or ``published`` in a paper, of weights that are not here.
        tolerance: How far a new evaluation may be off.
        trained: What the training run itself reported, of the weights as they were trained; None where unknown.
        reference: The table of the paper.
    """

    name: str
    value: float
    data: str
    source: str
    tolerance: float = 0.0
    trained: float | None = None
    reference: str = ""


@dataclass(frozen=True)
class ZooModel:
    """A row.

    Attributes:
        name: Unique; the name of the config where one network belongs to it.
        version: Counts publications under this name, from 1.
        task: Such as ``instance segmentation``.
        framework: Name of what builds it, see ``ndpp_dense.integrations.registry``.
        config: Bare name of the config.
        overrides: Further words for the config, as on the command line of the training script.
        files: The weights in one or more formats; empty where there are none yet.
        metrics: Figures.
        data: What it was trained on, and where that comes from.
        budget: Length of the training.
        params: Million parameters.
        gflops: Thousand million multiply-adds for one image of ``image_size``.
        image_size: Height and width that ``gflops`` are for.
        classes: Names of the classes.
        licence: Of the weights.
        command: That trains it.
        commit: Of the code that trained it.
        seed: Of the training.
        min_version: Of the package.
        note: Anything else.
    """

    name: str
    version: int
    task: str
    framework: str
    config: str
    data: str
    budget: str
    licence: str
    command: str
    overrides: tuple[str, ...] = ()
    files: tuple[ZooFile, ...] = ()
    metrics: tuple[Metric, ...] = ()
    params: float | None = None
    gflops: float | None = None
    image_size: tuple[int, ...] = ()
    classes: tuple[str, ...] = ()
    commit: str = ""
    seed: int | None = None
    min_version: str = "0.1.0"
    note: str = ""

    @property
    def weights(self) -> ZooFile | None:
        """The file to take: safetensors first."""
        return min(self.files, key=lambda file: FORMATS.index(file.format), default=None)

    @property
    def recipe(self) -> str:
        """How to make the weights oneself."""
        return f"train it with: {self.command}"


def read_model(row: Any, where: str) -> ZooModel:
    """Reads a row of the index.

    Args:
        row: As it was parsed.
        where: The file, for messages.

    Raises:
        ZooError: A field is missing, unknown or of another kind; names row and field.
    """
    name = row.get("name", "?") if isinstance(row, dict) else "?"
    here = f"{where}, row {name!r}"
    values = _fields(row, ZooModel, here)
    values["files"] = tuple(_file(entry, here) for entry in values.get("files", ()))
    values["metrics"] = tuple(_metric(entry, here) for entry in values.get("metrics", ()))
    model = ZooModel(**values)
    _need(bool(_NAME.fullmatch(model.name)), here, "name", model.name, "letters, digits, '.', '_' and '-'")
    _need(bool(_CONFIG.fullmatch(model.config)), here, "config", model.config, "the bare name of a config")
    _need(bool(_NAME.fullmatch(model.framework)), here, "framework", model.framework, "the name of a framework")
    _need(1 <= model.version < 10**6, here, "version", model.version, "at least 1")
    _need(bool(_VERSION.fullmatch(model.min_version)), here, "min_version", model.min_version, "such as 0.1.0")
    right = len(model.image_size) in (0, 2) and all(0 < side <= _MAX_SIDE for side in model.image_size)
    _need(right, here, "image_size", model.image_size, f"height and width from 1 to {_MAX_SIDE}")
    check_overrides(model.overrides, here)
    return model


def _file(entry: Any, where: str) -> ZooFile:
    file = ZooFile(**_fields(entry, ZooFile, where))
    # Names and hashes become parts of paths.
    plain = bool(_NAME.fullmatch(file.name)) and ".." not in file.name
    _need(plain, where, "file name", file.name, "a plain name of letters, digits, '.', '_' and '-'")
    _need(bool(_SHA256.fullmatch(file.sha256)), where, "sha256", file.sha256, "64 hex digits")
    _need(0 < file.size < _MAX_SIZE, where, "size", file.size, f"between 1 and {_MAX_SIZE} bytes")
    _need(file.format in FORMATS, where, "format", file.format, " or ".join(FORMATS))
    for url in file.urls:
        _need(_fit_to_fetch(url), where, "url", url, "http(s)://..., or a relative path without '..'")
    return file


def _fit_to_fetch(url: str) -> bool:
    """Whether it is an http(s) address, or a relative path that stays below what it is relative to."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if any(ord(sign) <= 32 or sign == "\\" for sign in url):
        return False
    if parts.scheme:
        return parts.scheme in ("http", "https") and bool(parts.netloc)
    return bool(url) and not url.startswith("/") and ".." not in parts.path.split("/") and "%" not in url


def is_address(url: str) -> bool:
    """Whether it is an http(s) address without signs that have no place in one."""
    return _fit_to_fetch(url) and bool(urlsplit(url).scheme)


def _metric(entry: Any, where: str) -> Metric:
    metric = Metric(**_fields(entry, Metric, where))
    _need(metric.source in SOURCES, where, "metric's source", metric.source, " or ".join(SOURCES))
    return metric


_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "int | None": (int, type(None)),
    "float | None": (int, float, type(None)),
}


def _fields(entry: Any, kind: type, where: str) -> dict[str, Any]:
    """The entry's values by field, lists as tuples; refuses unknown, missing and wrongly typed ones."""
    if not isinstance(entry, dict):
        raise ZooError(f"{where}: {entry!r:.80} stands where a {kind.__name__} should be described.")
    known = {field.name: field for field in fields(kind)}
    unknown = sorted(entry.keys() - known.keys())
    missing = [name for name, field in known.items() if name not in entry and field.default is MISSING]
    if unknown or missing:
        lacking = [f"no {', '.join(missing)}"] if missing else []
        strange = [f"unknown {', '.join(f'{name!r:.40}' for name in unknown)}"] if unknown else []
        what = "a file" if kind is ZooFile else "a metric" if kind is Metric else "it"
        raise ZooError(f"{where}: {what} has {' and '.join(lacking + strange)}. Correct the row, or install again.")
    return {name: _value(value, str(known[name].type), f"{where}, {name}") for name, value in entry.items()}


def _value(value: Any, kind: str, where: str) -> Any:
    if kind.startswith("tuple"):
        inner = kind[len("tuple[") :].split(",")[0]
        if not isinstance(value, list):
            raise ZooError(f"{where}: a list is needed, not {value!r:.80}.")
        return tuple(_value(item, inner, where) if inner in _KINDS else item for item in value)
    wanted = _KINDS[kind]
    right = isinstance(value, wanted) and not (isinstance(value, bool) and bool not in wanted)
    if not right or (isinstance(value, float) and not math.isfinite(value)):
        raise ZooError(f"{where}: {kind} is needed, not {value!r:.80}.")
    if isinstance(value, str) and not value.isprintable():  # it is shown on terminals, which take orders
        raise ZooError(f"{where}: {value!r:.80} holds signs that cannot be printed.")
    return value


def _need(true: bool, where: str, field: str, value: Any, needed: str) -> None:
    if not true:
        raise ZooError(f"{where}: {field} {value!r:.120} must be {needed}.")
