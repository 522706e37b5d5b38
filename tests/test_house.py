"""The rules of the house, read from the files: who imports whom, how long a file may be, what may be in it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ndpp_dense"
# Top to bottom: a module may import from its own storey and from those below.
STOREYS = [
    {"cli"},
    {"integrations"},
    {"datasets", "pretrain", "robustness", "zoo", "reports"},
    {"weights", "backbones", "training", "distributed", "images"},
    {"conversion", "calibration"},
    {"layers"},
    {"ops", "atomic_file", "config_files", "lazy_names"},
]
MODULES = sorted(PACKAGE.rglob("*.py"))
FRAMEWORKS = ["detectron2", "mmengine", "mmcv", "mmseg", "timm", "torchvision", "sklearn", "matplotlib", "pycocotools"]


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def _storey(room: str) -> int | None:
    return next((index for index, rooms in enumerate(STOREYS) if room.lstrip("_") in rooms), None)


def _imported_modules(tree: ast.AST, path: Path) -> set[str]:
    """Return the absolute names that a file imports, at the top or inside functions."""
    names: set[str] = set()
    package = ("ndpp_dense", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (start, node.module or "") if part)
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def _upward_imports(source: str, path: Path) -> list[str]:
    here = _storey(_room(path))
    names = sorted(_imported_modules(ast.parse(source), path))
    inside = [name for name in names if name.startswith("ndpp_dense.")]
    above = []
    for name in inside:
        there = _storey(name.split(".")[1])
        if here is not None and there is not None and there < here:
            above.append(name)
    return above


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_go_down_only(path):
    if _room(path) == "__init__":
        return
    assert _storey(_room(path)) is not None, f"{path.name} has no storey: add it to STOREYS"
    assert _upward_imports(path.read_text(encoding="utf-8"), path) == []


@pytest.mark.parametrize(
    "line",
    [
        "from ndpp_dense.integrations import detectron2",
        "from ndpp_dense import conversion",
        "from ..conversion.convert import convert_to_ndpp",
        "def late():\n    import ndpp_dense.layers.conv",
    ],
)
def test_an_upward_import_would_be_seen(line):
    assert _upward_imports(line, PACKAGE / "ops" / "moments.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_frameworks_are_imported_in_their_own_rooms(path):
    names = {name.split(".")[0] for name in _imported_modules(ast.parse(path.read_text(encoding="utf-8")), path)}
    if _storey(_room(path)) != 1:
        assert not names & {"detectron2", "mmengine", "mmcv", "mmseg"}
    if _storey(_room(path)) in (4, 5, 6):
        assert not names & set(FRAMEWORKS)


def test_the_room_of_mmengine_knows_no_project_on_it():
    for path in (PACKAGE / "integrations" / "mmengine").glob("*.py"):
        names = _imported_modules(ast.parse(path.read_text(encoding="utf-8")), path)
        projects = {"mmseg", "mmcv", "ndpp_dense.integrations.mmseg"}
        assert [n for n in names if any(n == p or n.startswith(f"{p}.") for p in projects)] == [], path.name


def test_import_loads_no_framework_but_torch():
    code = f"import sys, ndpp_dense; sys.exit(' '.join(m for m in {FRAMEWORKS!r} if m in sys.modules) or 0)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("folder", ["ndpp_dense", "tools", "tests"])
def test_files_are_short(folder):
    limit = 200 if folder == "tools" else 300
    counts = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert {path.relative_to(ROOT).as_posix(): lines for path, lines in counts.items() if lines > limit} == {}


def test_functions_are_short():
    long = []
    for path in [*MODULES, *(ROOT / "tools").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and isinstance(node.end_lineno, int):
                lines = node.end_lineno - node.lineno + 1 - _docstring_lines(node)
                if lines > 40:
                    long.append(f"{path.relative_to(ROOT).as_posix()}:{node.name} ({lines})")
    assert long == []


def _docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return (first.end_lineno or first.lineno) - first.lineno + 1 if is_docstring else 0


def _tracked_text() -> dict[str, str]:
    result = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=ROOT, check=False)
    if result.returncode:
        pytest.skip("not a git checkout")
    texts = {}
    for name in filter(None, result.stdout.split("\0")):
        try:
            texts[name] = (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue
    return texts


# Built from pieces, so that this file itself holds none of them.
_PRIVATE = [
    r"(?<![\w.])/" + f"(?:{folder})/" + r"\w" for folder in ("work", "root", "home", "tmp", "opt", "Users", "mnt")
] + [r"\b(?:pypi|pythonhosted|npmjs)" + r"\.(?:org|com)\b", "--(?:extra-)?index" + "-url", "--find" + "-links"]


@pytest.mark.parametrize("pattern", _PRIVATE)
def test_tracked_files_name_no_machine_and_no_registry(pattern):
    found = [name for name, text in _tracked_text().items() if re.search(pattern, text)]
    assert found == []
