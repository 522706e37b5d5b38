"""The rules of the house about frameworks: who may know which, and who may tell them apart."""

import ast
from pathlib import Path

import pytest

from ndpp_dense.integrations.registry import FRAMEWORKS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ndpp_dense"
# What a measurement imports, writes the versions of, or takes models from: libraries, frameworks among them.
TOOLS = ROOT / "tools"
LISTS_OF_PACKAGES = {
    TOOLS / "bench" / "machine.py",
    TOOLS / "bench" / "gpu" / "plan.py",
    TOOLS / "sweeps" / "suites.py",
    PACKAGE / "reports" / "surroundings.py",
}
FILES = sorted([*PACKAGE.rglob("*.py"), *TOOLS.rglob("*.py")])


def test_the_room_of_mmengine_knows_no_project_on_it():
    for path in (PACKAGE / "integrations" / "mmengine").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {
            f"{node.module or '.'}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        projects = {"mmseg", "mmcv", "ndpp_dense.integrations.mmseg"}
        assert [n for n in names if any(n == p or n.startswith(f"{p}.") for p in projects)] == [], path.name


def _told_apart(source: str) -> list[str]:
    """Return the lines that tell frameworks apart by name, as only the registry may.

    These are literals (tuples, lists, sets, dictionaries, with all that is in them) that hold names of two or more
    frameworks, and comparisons with the name of one as it is typed, ``match`` included. In literals names are also what
    people write, and packages that belong to a framework. What an import did not find (``error.name``) may be compared.
    """
    owners = {name: r.name for r in FRAMEWORKS.values() for name in (r.name, r.title, *r.packages)}
    found = []
    for node in ast.walk(ast.parse(source)):
        named = {owners[n.value] for n in ast.walk(node) if isinstance(n, ast.Constant) and n.value in owners}
        if isinstance(node, ast.Tuple | ast.List | ast.Set | ast.Dict):
            found += [f"line {node.lineno}: {' and '.join(sorted(named))}"] if len(named) > 1 else []
        elif isinstance(node, ast.Compare | ast.MatchValue) and "error.name" not in ast.unparse(node):
            typed = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and n.value in FRAMEWORKS]
            found += [f"line {node.lineno}: {ast.unparse(node)}"] if typed else []
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_only_the_registry_tells_frameworks_apart(path):
    if path not in {PACKAGE / "integrations" / "registry.py", *LISTS_OF_PACKAGES}:
        assert _told_apart(path.read_text(encoding="utf-8")) == [], "ask ndpp_dense.integrations.registry instead"


@pytest.mark.parametrize(
    "line",
    [
        "FRAMEWORKS = ('detectron2', 'mmseg')",
        "tasks = {'timm': 'classification', 'detectron2': 'detection'}",
        "titles = [('a', 'Detectron2'), ('b', ['MMSegmentation'])]",
        "quiet = {'fvcore', 'mmengine'}",
        "if name == 'detectron2': pass",
        "x = 1 if 'timm' != name else 2",
        "match name:\n    case 'mmseg': pass",
    ],
)
def test_a_list_of_frameworks_would_be_seen(line):
    assert _told_apart(line)
    assert not _told_apart("ours = ('mmseg', 'mmcv'), 'torchvision'\nif error.name != 'timm': raise")
