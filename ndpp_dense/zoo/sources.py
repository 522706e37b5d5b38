"""Where a file may be fetched from, in the order in which the places are tried."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ndpp_dense.zoo.http import CutOffError, Patience, RefusedError, fetch_http
from ndpp_dense.zoo.index import ZooIndex
from ndpp_dense.zoo.part import PartFile
from ndpp_dense.zoo.rows import ZooFile

__all__ = ["MIRRORS", "OFFLINE", "addresses", "fetch", "is_offline", "scheme_of"]

MIRRORS, OFFLINE = "NDPP_ZOO_MIRROR", "NDPP_OFFLINE"
_BLOCK = 1 << 20


def is_offline() -> bool:
    """Whether ``NDPP_OFFLINE`` forbids the network."""
    return os.environ.get(OFFLINE, "").lower() not in ("", "0", "false", "no")


def addresses(file: ZooFile, index: ZooIndex) -> list[str]:
    """Addresses to try: the user's mirrors, then those of the index.

    Args:
        file: What to fetch.
        index: Its bases are what relative urls are relative to.
    """
    mirrors = [word for word in re.split(r"[,\s]+", os.environ.get(MIRRORS, "")) if word]
    found = [_below(mirror, file.name) for mirror in mirrors]
    for url in file.urls:
        if scheme_of(url):
            found.append(url)
        else:
            found += [_below(base, url) for base in (*mirrors, *index.base_urls)]
    return list(dict.fromkeys(found))


def fetch(address: str, part: PartFile, patience: Patience, advance: Callable[[int], Any]) -> None:
    """Fetches what is missing of a file, over HTTP, from a folder, or from what fsspec knows (``s3://``, ``hf://``).

    Args:
        address: One of :func:`addresses`.
        part: See :func:`ndpp_dense.zoo.http.fetch_http`.
        patience: Likewise.
        advance: Likewise.

    Raises:
        CutOffError: It is worth another attempt.
        RefusedError: It is not.
    """
    scheme = scheme_of(address)
    if scheme in ("http", "https"):
        fetch_http(address, part, patience, advance)
    elif scheme in ("", "file"):
        _copy(lambda: _opened_file(address), part, advance)
    else:
        _copy(lambda: _opened_remote(address, scheme), part, advance)


def scheme_of(address: str) -> str:
    """``https`` and the like; empty for a path. The rest of the address may be none."""
    return address.partition(":")[0] if "://" in address or address.startswith("file:") else ""


def _below(base: str, name: str) -> str:
    return f"{base.rstrip('/')}/{name}"


def _opened_file(address: str) -> Any:
    from urllib.request import url2pathname

    path = Path(url2pathname(urlsplit(address).path) if address.startswith("file:") else address).expanduser()
    if not path.is_file():  # a pipe or a device would block or never end
        raise RefusedError("there is no such file")
    return path.open("rb")


def _opened_remote(address: str, scheme: str) -> Any:
    if "::" in address:
        raise RefusedError("chained addresses are not followed")
    try:
        fsspec = importlib.import_module("fsspec")
    except ModuleNotFoundError as error:
        raise RefusedError(f"{scheme}:// needs the package fsspec: pip install fsspec") from error
    try:
        system, path = fsspec.core.url_to_fs(address)
        return system.open(path, "rb")
    except (ImportError, ValueError) as error:  # an unknown scheme, or a package that it needs
        raise RefusedError(str(error)) from error
    except FileNotFoundError as error:
        raise RefusedError("there is no such file") from error


def _copy(opened: Callable[[], Any], part: PartFile, advance: Callable[[int], Any]) -> None:
    try:
        with opened() as stream:
            stream.seek(part.done)
            while block := stream.read(_BLOCK):
                part.write(block)
                advance(len(block))
    except (CutOffError, RefusedError):
        raise
    except PermissionError as error:
        raise RefusedError(str(error)) from error
    except OSError as error:
        raise CutOffError(str(error) or type(error).__name__) from error
    if part.done < part.size:
        raise RefusedError(f"it has {part.done} bytes where {part.size} are needed")
