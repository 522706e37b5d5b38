"""Weights at an address of the user's own: fetched once, to a file that frameworks read."""

from __future__ import annotations

import hashlib
import re
import time
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from ndpp_dense.atomic_file import replacing
from ndpp_dense.redaction import redacted, redacted_address
from ndpp_dense.zoo.cache import Cache
from ndpp_dense.zoo.errors import ZooError
from ndpp_dense.zoo.http import CutOffError, Patience, RefusedError, blocks, open_http, stated_length
from ndpp_dense.zoo.ranks import once_a_node
from ndpp_dense.zoo.sources import OFFLINE, is_offline

__all__ = ["local_copy"]

_STRANGE = re.compile(r"[^A-Za-z0-9._-]")


def local_copy(address: str, *, cache: Cache | None = None, patience: Patience | None = None) -> Path:
    """The file at an http(s) address, fetched if it was not before.

    Nothing says which bytes are the right ones: they are read by the restricted reader, and that is all. A user in the
    address is sent to its host alone; where the file lies, and its name, hold neither user nor query.

    In a distributed run all ranks must call it: one process a node fetches.

    Args:
        address: ``https://[user:password@]host/path[?query]``.
        cache: Where it is kept, in a folder by the hash of the address; None takes ``$NDPP_HOME``.
        patience: With the server.

    Raises:
        ZooError: It cannot be had; says why.
    """
    kept, address = cache or Cache(), address.replace(" ", "%20")
    name = _STRANGE.sub("_", unquote(PurePosixPath(urlsplit(address).path).name))[-100:].lstrip(".") or "weights.pth"
    path = kept.home / "addresses" / hashlib.sha256(address.encode()).hexdigest()[:32] / name
    return once_a_node(lambda: _fetched(address, path, patience or Patience()), str(kept.home))


def _fetched(address: str, path: Path, patience: Patience) -> Path:
    if path.is_file() and not path.is_symlink():
        return path
    if is_offline():
        raise ZooError(
            f"{OFFLINE} is set and {redacted_address(address)} was not fetched before. Unset it, or name a file."
        )
    for attempt in range(1, patience.attempts + 1):
        try:
            with replacing(path) as made:
                _fetch(address, made, patience)
            return path
        except (CutOffError, RefusedError) as error:
            if isinstance(error, RefusedError) or attempt == patience.attempts:
                raise ZooError(f"cannot fetch {redacted_address(address)}: {redacted(str(error))}.") from error
            time.sleep(patience.backoff * 2 ** (attempt - 1))
        except OSError as error:
            raise ZooError(
                f"cannot write {path} ({error}). Set NDPP_HOME to a folder that you can write to."
            ) from error
    raise ZooError(f"cannot fetch {redacted_address(address)}.")


def _fetch(address: str, made: Path, patience: Patience) -> None:
    received = 0
    with made.open("wb") as stream, open_http(address, patience) as response:
        wanted = stated_length(response)
        for block in blocks(response, patience):
            received += stream.write(block)
    if wanted is not None and received != wanted:
        raise CutOffError(f"it ended after {received} of {wanted} bytes")
