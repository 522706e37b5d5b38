"""Write a pure-Python wheel from a package folder, so that pip installs, lists and removes it like any other."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

__all__ = ["write_wheel"]

_WHEEL = "Wheel-Version: 1.0\nGenerator: ndpp_dense\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def write_wheel(
    package: Path, out_dir: Path, version: str, requires: tuple[str, ...] = (), licence: Path | None = None
) -> Path:
    """Pack ``package`` into ``<name>-<version>-py3-none-any.whl``.

    Args:
        package: the importable folder; its name is the distribution's name too.
        out_dir: where the wheel goes.
        version: the distribution's version.
        requires: requirement strings for the metadata.
        licence: a licence file that travels in the metadata folder.

    Returns:
        The path of the wheel.
    """
    name, info = package.name, f"{package.name}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
    entries = {
        f"{name}/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    entries[f"{info}/METADATA"] = ("\n".join(metadata) + "\n").encode()
    entries[f"{info}/WHEEL"] = _WHEEL.encode()
    if licence is not None:
        entries[f"{info}/{licence.name}"] = licence.read_bytes()
    rows = [f"{entry},sha256={_digest(content)},{len(content)}" for entry, content in entries.items()]
    entries[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()
    wheel = out_dir / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    return wheel


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
