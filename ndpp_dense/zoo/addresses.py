"""What ``--weights`` may be."""

from __future__ import annotations

from pathlib import Path

from ndpp_dense.zoo.download import local_copy
from ndpp_dense.zoo.index import SCHEME, load_index

__all__ = ["as_address"]


def as_address(word: str) -> str:
    """The address of weights that a user named.

    Args:
        word: A path, an address with a scheme (``ndpp://NAME``, ``https://...``), or a bare name of the model zoo.

    Returns:
        The path or address as it was given; ``ndpp://NAME`` for a bare name; the path of a copy for what is at an
        http(s) address, so that no framework sees, logs or saves a user, a password or a token in it.

    Raises:
        ZooError: A bare name, or one after ``ndpp://``, that is not in the model zoo; names the nearest. Or the address
            does not give a file.
    """
    path = Path(word)
    if "://" not in word and (path.exists() or path.name != word or path.suffix in (".pth", ".pkl", ".safetensors")):
        return word
    if word.startswith(("http://", "https://")):
        return str(local_copy(word))
    if "://" in word and not word.startswith(SCHEME):
        return word
    return SCHEME + load_index().find(word).name
