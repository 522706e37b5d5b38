"""The index of the model zoo: what there is, and by which bytes it is known.

`model_zoo/index.json` is data from a file that may be damaged or hostile: every field is checked when it is read, and a
digest over the content catches what checks of fields cannot.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ndpp_dense.redaction import redacted_address
from ndpp_dense.zoo.errors import ZooError
from ndpp_dense.zoo.rows import ZooFile, ZooModel, is_address, read_model

__all__ = ["SCHEME", "ZooIndex", "checkpoints_folder", "content_digest", "index_path", "load_index", "write_index"]

SCHEME = "ndpp://"
FORMAT = 1
_ENVIRONMENT = "NDPP_ZOO_INDEX"


@dataclass(frozen=True)
class ZooIndex:
    """All rows.

    Attributes:
        path: The file that it was read from.
        base_urls: What relative urls of files are relative to, in the order in which they are tried.
        models: Rows by name.
    """

    path: Path
    base_urls: tuple[str, ...]
    models: dict[str, ZooModel]

    def find(self, name: str) -> ZooModel:
        """The row of a model.

        Args:
            name: ``NAME`` or ``ndpp://NAME``.

        Raises:
            ZooError: There is no such row; names the nearest.
        """
        wanted = name.removeprefix(SCHEME).strip("/")
        if wanted not in self.models:
            near = get_close_matches(wanted, list(self.models), n=3, cutoff=0.4)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise ZooError(
                f"the model zoo has no {wanted!r}.{hint} `ndpp zoo list` shows all {len(self.models)} names."
            )
        return self.models[wanted]

    def shipped(self, file: ZooFile) -> Path:
        """Where a file is if it came with the package; it need not exist."""
        return checkpoints_folder(self) / file.name


def index_path() -> Path:
    """The index: ``$NDPP_ZOO_INDEX``, else that of the installed package or of the checkout.

    Raises:
        ZooError: There is none.
    """
    chosen = os.environ.get(_ENVIRONMENT)
    if chosen:
        return Path(chosen).expanduser()
    package = Path(__file__).resolve().parents[1]
    candidates = [package / "model_zoo" / "index.json"]
    # site-packages may hold a stranger's "model_zoo": only a checkout has the project file beside it.
    if (package.parent / "pyproject.toml").is_file():
        candidates.append(package.parent / "model_zoo" / "index.json")
    found = [path for path in candidates if path.is_file()]
    if not found:
        raise ZooError(f"the model zoo's index is missing: looked for {candidates[0]}. Install ndpp-dense again.")
    return found[0]


def checkpoints_folder(index: ZooIndex) -> Path:
    """The folder beside an index that holds the checkpoints that come with it."""
    return index.path.parent / "checkpoints"


def load_index(path: str | os.PathLike[str] | None = None) -> ZooIndex:
    """Reads and checks an index.

    Args:
        path: The file; None takes :func:`index_path`.

    Raises:
        ZooError: The file is missing, damaged, or holds a field that is not what it should be.
    """
    file = Path(path) if path is not None else index_path()
    try:
        content = json.loads(file.read_bytes().decode("utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise ZooError(f"cannot read the model zoo's index {file}: {error}. Install the package again.") from error
    return _checked(content, file)


def content_digest(content: dict[str, Any]) -> str:
    """SHA-256 of what an index says, whatever its layout."""
    said = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_index(index: ZooIndex) -> None:
    """Writes an index whole or not at all, rows by name, with its digest."""
    from ndpp_dense.atomic_file import replacing

    rows = [_as_written(index.models[name]) for name in sorted(index.models)]
    content: dict[str, Any] = {"format": FORMAT, "base_urls": list(index.base_urls), "models": rows}
    content = json.loads(json.dumps(content))
    content["digest"] = content_digest(content)
    with replacing(index.path) as made:
        made.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _as_written(model: ZooModel) -> dict[str, Any]:
    """A row without what is empty."""
    return {key: value for key, value in asdict(model).items() if value not in (None, "", (), [], {})}


def _checked(content: Any, file: Path) -> ZooIndex:
    where = f"the model zoo's index {file}"
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ZooError(f"{where} is not of format {FORMAT}: it is damaged, or of another version of the package.")
    if "digest" not in content:
        raise ZooError(f"{where} states no digest of its content: `ndpp zoo publish --refresh` writes it anew.")
    if content["digest"] != content_digest(content):
        raise ZooError(
            f"{where} is damaged: its content does not have the digest that it states. Install the package again; "
            "after an edit by hand, `ndpp zoo publish --refresh` writes it anew."
        )
    return read_content(content, file)


def read_content(content: dict[str, Any], file: Path) -> ZooIndex:
    """Reads the content of an index whose digest is right, or is not asked about.

    Raises:
        ZooError: A field is not what it should be.
    """
    where = f"the model zoo's index {file}"
    rows, bases = content.get("models"), content.get("base_urls", [])
    if not isinstance(rows, list) or not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ZooError(f"{where}: 'models' must be a list of rows and 'base_urls' one of texts.")
    for base in bases:
        if not is_address(base):
            raise ZooError(f"{where}: the base url {redacted_address(base)!r:.120} must be http(s)://...")
    models: dict[str, ZooModel] = {}
    for row in rows:
        model = read_model(row, where)
        if model.name in models:
            raise ZooError(f"{where}: two rows have the name {model.name!r}.")
        models[model.name] = model
    return ZooIndex(file, tuple(bases), models)


def _refuse_constant(word: str) -> float:
    raise ValueError(f"it holds {word}, which is no number")
