"""From the name of a model to a file on this machine whose bytes are the right ones."""

from __future__ import annotations

import hashlib
import logging
import random
import re
import time
from pathlib import Path

from ndpp_dense.redaction import redacted_address, shown
from ndpp_dense.zoo.cache import Cache, file_sha256
from ndpp_dense.zoo.errors import ZooError
from ndpp_dense.zoo.http import CutOffError, Patience, RefusedError
from ndpp_dense.zoo.index import ZooIndex, load_index
from ndpp_dense.zoo.part import PartFile, WrongBytesError
from ndpp_dense.zoo.ranks import once_a_node
from ndpp_dense.zoo.rows import ZooFile, ZooModel
from ndpp_dense.zoo.sources import MIRRORS, OFFLINE, addresses, fetch, is_offline, scheme_of

__all__ = ["locate", "resolve", "resolved_bytes"]

_log = logging.getLogger(__name__)
_MAX_WAIT = 20.0  # seconds between two attempts


def resolve(
    name: str, *, index: ZooIndex | None = None, cache: Cache | None = None, patience: Patience | None = None
) -> Path:
    """The file of a model's weights, fetched if it is not here yet. Its bytes have been checked.

    In a distributed run all ranks must call it: one process a node fetches, and a failure is raised on all.

    Args:
        name: ``NAME`` or ``ndpp://NAME``.
        index: None reads the index of the package.
        cache: Where fetched files are kept; None takes ``$NDPP_HOME``.
        patience: With servers.

    Returns:
        A file that came with the package, or one of the cache; it must not be changed.

    Raises:
        ZooError: There is no such model, it has no weights yet, or no source has them; says what each one said.
    """
    kept = cache or Cache()
    return once_a_node(lambda: _resolve(name, index, kept, patience or Patience()), str(kept.home))


def resolved_bytes(name: str, *, index: ZooIndex | None = None, cache: Cache | None = None) -> tuple[Path, bytes]:
    """The file of a model's weights as :func:`resolve` finds it, and its bytes: what was checked is what is returned.

    Args:
        name: ``NAME`` or ``ndpp://NAME``.
        index: None reads the index of the package.
        cache: None takes ``$NDPP_HOME``.

    Raises:
        ZooError: See :func:`resolve`.
    """
    kept = cache or Cache()
    return once_a_node(lambda: _resolved_bytes(name, index or load_index(), kept), str(kept.home))


def _resolved_bytes(name: str, index: ZooIndex, cache: Cache) -> tuple[Path, bytes]:
    model, file = _wanted(name, index)
    for path in (index.shipped(file), cache.blob(file.sha256)):
        data = _bytes_of(path, file)
        if data is not None:
            return path, data
    path = _resolve(name, index, cache, Patience())  # fetches, or says why not
    data = _bytes_of(path, file)
    if data is None:
        raise ZooError(f"{path} was changed after it had been checked. Remove it; it is then fetched again.")
    return path, data


def _bytes_of(path: Path, file: ZooFile) -> bytes | None:
    """All bytes, if they are the right ones."""
    try:
        if not path.is_file() or path.stat().st_size != file.size:
            return None
        data = path.read_bytes()
    except OSError as error:
        raise ZooError(f"cannot read {path}: {error}.") from error
    return data if hashlib.sha256(data).hexdigest() == file.sha256 else None


def locate(model: ZooModel, index: ZooIndex, cache: Cache) -> Path | None:
    """The file of a model's weights if it is on this machine, its bytes checked; None if it is not, or is damaged."""
    file = model.weights
    if file is None:
        return None
    shipped = index.shipped(file)
    if shipped.is_file():
        if file_sha256(shipped) == file.sha256:
            return shipped
        _log.warning("%s, which came with the package, is damaged: looking for another copy.", shipped)
    return cache.blob(file.sha256) if cache.holds(file.sha256) else None


def _resolve(name: str, index: ZooIndex | None, cache: Cache, patience: Patience) -> Path:
    index = index or load_index()
    model, file = _wanted(name, index)
    found = locate(model, index, cache)
    if found is not None:
        return found
    places = addresses(file, index)
    if not places:
        raise ZooError(
            f"{model.name}: nobody offers {file.name} ({file.size} bytes, SHA-256 {file.sha256}) for download. Put it "
            f"into {cache.blob(file.sha256)}, or name a folder or server that has it in {MIRRORS}; or {model.recipe}"
        )
    if is_offline():
        places = _local(model, file, places, cache)
    with cache.locked(file.sha256):
        if not cache.holds(file.sha256):  # another process may have fetched it meanwhile
            _fetch_from_any(model, file, places, cache, patience)
    return cache.blob(file.sha256)


def _wanted(name: str, index: ZooIndex) -> tuple[ZooModel, ZooFile]:
    """Row and file of a name that has weights which this version can read."""
    model = index.find(name)
    if model.weights is None:
        raise ZooError(f"{model.name} has no weights yet, only a recipe: {model.recipe}")
    _check_version(model)
    return model, model.weights


def _check_version(model: ZooModel) -> None:
    """Refuses weights that this version of the package cannot read."""
    from ndpp_dense import __version__

    if _numbers(__version__) < _numbers(model.min_version):
        raise ZooError(f"{model.name} needs ndpp-dense >= {model.min_version}, this is {__version__}: update it.")


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:3]]


def _local(model: ZooModel, file: ZooFile, places: list[str], cache: Cache) -> list[str]:
    """Places that need no network."""
    local = [place for place in places if scheme_of(place) in ("", "file")]
    if not local:
        raise ZooError(
            f"{model.name}: {OFFLINE} is set and {file.name} is not on this machine. Unset it, or copy the file from "
            f"{redacted_address(places[0])} to {cache.blob(file.sha256)}."
        )
    return local


def _fetch_from_any(model: ZooModel, file: ZooFile, places: list[str], cache: Cache, patience: Patience) -> None:
    """Tries every place in turn; what one has sent counts for the next, since the bytes are the same."""
    reasons = []
    for place in places:
        try:
            _fetch_patiently(place, file, cache, patience)
        except (RefusedError, CutOffError, WrongBytesError) as error:
            reasons.append(" ".join(shown(f"{redacted_address(place)}: {error}").splitlines()))
            _log.info("%s: %s", model.name, reasons[-1])
            continue
        return
    listed = "\n  ".join(reasons)
    raise ZooError(
        f"{model.name}: no source has {file.name} ({file.size} bytes, SHA-256 {file.sha256[:12]}...):\n  {listed}\n"
        f"Try again later, name another source in {MIRRORS}, or copy the file to {cache.blob(file.sha256)}."
    )


def _fetch_patiently(place: str, file: ZooFile, cache: Cache, patience: Patience) -> None:
    """Makes attempts at one place, each going on where the one before ended."""
    for attempt in range(1, patience.attempts + 1):
        resumed = False
        try:
            with _open(cache, file) as part:
                resumed = part.found > 0
                _fetch(place, file, part, patience)
                part.become(cache.blob(file.sha256), file.sha256)
            return
        except WrongBytesError:
            # What was there before may have been of another version, or have come from another place.
            if not resumed:
                raise
            cache.part(file.sha256).unlink(missing_ok=True)
        except CutOffError as error:
            if attempt == patience.attempts:
                raise CutOffError(f"{error} (attempt {attempt} of {attempt})") from error
            time.sleep(min(_MAX_WAIT, patience.backoff * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0))
    raise WrongBytesError("it sent wrong bytes each time")


def _open(cache: Cache, file: ZooFile) -> PartFile:
    return PartFile(cache.part(file.sha256), file.size)


def _fetch(place: str, file: ZooFile, part: PartFile, patience: Patience) -> None:
    from tqdm import tqdm

    if part.found:
        _log.info("%s: going on after %d of %d bytes", file.name, part.found, part.size)
    if part.done == part.size:  # whole already: only its name is missing
        return
    # A bar on terminals only.
    with tqdm(total=file.size, initial=part.done, unit="B", unit_scale=True, desc=file.name, disable=None) as bar:
        fetch(place, part, patience, bar.update)
