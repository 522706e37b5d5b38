"""How bytes become objects: tensors, arrays, numbers, texts and their containers, and nothing that a file could run.

A pickle is a program: it names functions and calls them. Here every name that it may use stands for something of this
module that makes plain data; any other name ends the reading. That holds for NumPy's names too, whose own functions
trust the lengths and types that a file states.
"""

from __future__ import annotations

import pickle
import re
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, NoReturn

import numpy as np
import torch

__all__ = ["ZIP", "RefusedContentError", "TrainingLog", "read_pickle", "read_torch"]

_DTYPE = re.compile(r"[<>=|]?(?:[biufc]\d{1,2}|[SU]\d{0,6}|[?bBhHiIlLqQefdFD])")
_GLOBAL = re.compile(r"GLOBAL (\S+)")
ZIP = b"PK\3\4"  # how the files of torch.save begin, since torch 1.6
_allowing = threading.Lock()


class RefusedContentError(ValueError):
    """A file is whole and of a known kind, but asks for more than plain data, or has other bytes than it states."""


def read_pickle(stream: BinaryIO) -> Any:
    """Reads a pickle of arrays and plain values, as Detectron2 and Caffe2 publish weights, of Python 2 or 3.

    Raises:
        RefusedContentError: It asks for anything else.
        Exception: A damaged file can make unpickling raise anything.
    """
    return _plain(_Unpickler(stream, encoding="latin1").load(), {})


def read_torch(stream: BinaryIO) -> Any:
    """Reads what ``torch.save`` wrote, to the CPU. Checksums of a zip archive, which torch passes over, are compared.

    Raises:
        RefusedContentError: It asks for anything else, is a program (TorchScript), or a record has another checksum.
        Exception: A damaged file can make torch raise anything.
    """
    _check_archive(stream)
    try:
        with _only({**_ARRAYS, **_TORCH}):
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = _GLOBAL.search(str(error))
        if asked is None:
            raise
        name = asked[1] if "." in asked[1] else f"builtins.{asked[1]}"
        raise RefusedContentError(_asks(name)) from error
    return _plain(content, {})


def _asks(name: str) -> str:
    return f"it asks for {name}, and only tensors, arrays, numbers, texts and their containers are read"


def _check_archive(stream: BinaryIO) -> None:
    head = stream.read(512)
    stream.seek(0)
    if head[257:262] == b"ustar":
        raise RefusedContentError("it is a tar archive, as torch wrote them before 2017, and these can run code")
    if not head.startswith(ZIP):
        return
    with zipfile.ZipFile(stream) as archive:
        names = archive.namelist()
        if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
            raise RefusedContentError(
                "it is a program (TorchScript), not weights: save the state dictionary of its module with torch.save"
            )
        damaged = archive.testzip()
    if damaged is not None:
        raise RefusedContentError(f"its record {damaged} does not have the checksum that was written with it")
    stream.seek(0)


@contextmanager
def _only(names: Mapping[str, Any]) -> Iterator[None]:
    """Lets torch read these names, whatever else was allowed in this process."""
    with _allowing:
        before = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals([(stand_in, name) for name, stand_in in names.items()])
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)


class _Attributes:
    """Something with plain attributes and no behaviour."""

    def __setstate__(self, state: Any) -> None:
        vars(self).update(dict(state))


class _Settings(_Attributes):
    """Stands for ``argparse.Namespace``, in which the reference scripts of torchvision and timm keep their flags."""


class TrainingLog(_Attributes):
    """Stands for MMEngine's ``HistoryBuffer``, of which its checkpoints are full beside the weights: its attributes."""


def _log_method(log: Any, name: Any) -> Any:
    """Takes the place of ``getattr``: a log names its methods so. Nothing is looked up."""
    return name


class _Type:
    """Stands for ``numpy.dtype``: of numbers and texts only."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, name: Any, *ignored: Any) -> None:
        if not isinstance(name, str) or not _DTYPE.fullmatch(name):
            raise RefusedContentError(f"it holds an array of type {name!r:.40}, which is not of numbers")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        order, parts = state[1], state[2:5]
        if order not in ("<", ">", "=", "|") or any(part is not None for part in parts):
            raise RefusedContentError("it holds an array whose type has parts")
        if order in "<>":
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands for ``numpy.ndarray`` while it is read."""

    __hash__ = None  # type: ignore[assignment]
    value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        self.value = _array(data, kind, shape, "F" if fortran else "C")

    def finished(self) -> np.ndarray:
        """The array itself."""
        if self.value is None:
            raise RefusedContentError("it holds an array without content")
        return self.value


def _array(data: Any, kind: Any, shape: Any, order: Any = "C") -> np.ndarray:
    """An array over bytes, which must be as many as its shape says."""
    raw = data.encode("latin1") if isinstance(data, str) else data  # of Python 2
    if not isinstance(kind, _Type) or not isinstance(raw, bytes | bytearray) or kind.dtype.itemsize == 0:
        raise RefusedContentError("it holds an array of something else than numbers")
    values = np.frombuffer(raw, kind.dtype).reshape(shape, order="F" if order == "F" else "C")
    return values.astype(kind.dtype.newbyteorder("="))  # not of the file's, which are read-only


def _reconstruct(*ignored: Any) -> _Array:
    return _Array()


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any) -> _Array:
    made = _Array()
    made.value = _array(data, kind, shape, order)
    return made


def _scalar(kind: Any, data: Any) -> Any:
    return _array(data, kind, (1,))[0]


def _encoded(text: Any, encoding: Any) -> bytes:
    if encoding != "latin1" or not isinstance(text, str):
        raise RefusedContentError(f"it encodes texts in {encoding!r:.40}")
    return text.encode("latin1")


def _no_bytes(*ignored: Any) -> bytes:
    """Takes the place of ``bytes``, which the older protocols call, without arguments, for none."""
    if ignored:
        raise RefusedContentError("it makes bytes of something else")
    return b""


def _no_call(*ignored: Any) -> NoReturn:
    raise RefusedContentError(_asks("numpy.ndarray by itself"))


class _Dict(dict):
    """Stands for ``OrderedDict`` while it is read: attributes that it had are dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


# By name, what stands for it. NumPy 2 has moved its functions: both names are known, whichever release is installed.
_ARRAYS: dict[str, Callable[..., Any]] = {
    "numpy.ndarray": _no_call,
    "numpy.dtype": _Type,
    "builtins.bytes": _no_bytes,
    "__builtin__.bytes": _no_bytes,
    **{
        f"numpy.{core}.{name}": stand_in
        for core in ("core", "_core")
        for name, stand_in in {
            "multiarray._reconstruct": _reconstruct,
            "multiarray.scalar": _scalar,
            "numeric._frombuffer": _from_buffer,
        }.items()
    },
}
_PICKLED: dict[str, Callable[..., Any]] = {**_ARRAYS, "collections.OrderedDict": _Dict, "_codecs.encode": _encoded}
# Torch sets the state of those only that it knows, arrays among them.
_TORCH: dict[str, Any] = {
    f"{__name__}._Array": _Array,
    "argparse.Namespace": _Settings,
    "mmengine.logging.history_buffer.HistoryBuffer": TrainingLog,
    "builtins.getattr": _log_method,
}


class _Maker:
    """Something that a pickle may call, and no more: it has no attributes that the pickle could set."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __setstate__(self, state: Any) -> NoReturn:
        raise RefusedContentError("it changes what it calls")


class _Unpickler(pickle.Unpickler):
    """Never imports what a pickle names."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _PICKLED:
            raise RefusedContentError(_asks(f"{module}.{name}"))
        return _Maker(_PICKLED[f"{module}.{name}"])


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """The value with arrays and dictionaries in place of what stood for them, each once."""
    if id(value) in done:
        return done[id(value)][1]
    if callable(value) or isinstance(value, _Type):
        raise RefusedContentError("it holds functions or types among its values")
    if isinstance(value, _Array):
        made: Any = value.finished()
    elif isinstance(value, _Settings):
        made = dict(vars(value))
    elif isinstance(value, _Dict):
        made = dict(value)
    elif type(value) is tuple:
        made = tuple(_plain(item, done) for item in value)
    else:
        made = value
    done[id(value)] = (value, made)  # both: an id names a living object only
    inside: Any = vars(made) if isinstance(made, TrainingLog) else made
    if isinstance(inside, dict | list):
        own: Any = inside
        for key, item in inside.items() if isinstance(inside, dict) else enumerate(inside):
            own[key] = _plain(item, done)
    return made
