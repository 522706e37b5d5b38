"""The rules of the house, read from the files: who imports whom, how long a file may be, what may be in it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ndpp_dense.layers import WhiteningConfig
from ndpp_dense.layers.statistics.whitening import Whitening

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
    {"ops", "atomic_file", "config_files", "lazy_names", "redaction"},
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


def test_import_loads_no_framework_but_torch():
    code = f"import sys, ndpp_dense; sys.exit(' '.join(m for m in {FRAMEWORKS!r} if m in sys.modules) or 0)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("folder", ["ndpp_dense", "tools", "tests"])
def test_files_are_short(folder):
    limit = 200 if folder == "tools" else 400
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


def _edges(path: Path, names: dict[str, Path]) -> set[Path]:
    """Return the files that a file imports when it is imported, and those that it imports for type checkers."""
    package = ("ndpp_dense", *path.relative_to(PACKAGE).parts[:-1])
    found: set[Path] = set()
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        for node in ast.iter_child_nodes(todo.pop()):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue  # imported when it runs
            todo.append(node)
            if isinstance(node, ast.Import):
                found |= {names[alias.name] for alias in node.names if alias.name in names}
            elif isinstance(node, ast.ImportFrom):
                start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
                base = ".".join(part for part in (start, node.module or "") if part)
                modules = (names.get(f"{base}.{alias.name}", names.get(base)) for alias in node.names)
                found |= {module for module in modules if module is not None}
    return found - {path}


def _cycle(edges: dict[Path, set[Path]]) -> list[str]:
    """Return a cycle of a graph, if there is one: what is left when all that imports nothing left is taken away."""
    left = {path: set(targets) for path, targets in edges.items()}
    while done := {path for path, targets in left.items() if not targets}:
        left = {path: targets - done for path, targets in left.items() if path not in done}
    walk: list[Path] = []
    while left and (not walk or walk[-1] not in walk[:-1]):
        walk.append(min(left[walk[-1]]) if walk else min(left))
    return [path.as_posix() for path in walk[walk.index(walk[-1]) :]] if walk else []


def test_no_imports_go_round_in_a_circle():
    """Imports for type checkers count: modules that name each other's types are one module in two files."""
    names = {
        ".".join(("ndpp_dense", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in MODULES
    }
    assert _cycle({path: _edges(path, names) for path in MODULES}) == []


def test_a_circle_would_be_seen():
    a, b, c = Path("a"), Path("b"), Path("c")
    assert _cycle({a: {b}, b: {c}, c: set()}) == []
    assert _cycle({a: {b}, b: {c}, c: {b}}) == ["b", "c", "b"]


STATE_OWNERS = {PACKAGE / "layers" / "statistics" / name for name in ("collection.py", "running.py", "whitening.py")}


def _state_attributes() -> set[str]:
    state = Whitening(1, 2, WhiteningConfig(schedule="every=2"))
    properties = {name for name in dir(Whitening) if isinstance(getattr(Whitening, name), property)}
    own = {*vars(state), *state._buffers, *state._modules, *properties} - set(vars(torch.nn.Module()))
    return own - {"config", "process_group"}  # a layer's own name for its settings; and what users may set


def _writes_to_state(tree: ast.AST, attributes: set[str]) -> list[str]:
    """Return where statistics of an object other than ``self`` are assigned, or written in place."""
    found = []
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign | ast.Delete):
            targets = [part for target in node.targets for part in getattr(target, "elts", [target])]
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr.endswith("_") and not node.func.attr.startswith("_"):
                targets = [node.func.value]  # running_mean.copy_(...)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("setattr", "delattr"):
            name = node.args[1]
            targets = [ast.Attribute(node.args[0], name.value if isinstance(name, ast.Constant) else "", ast.Load())]
        for target in targets:
            while isinstance(target, ast.Subscript | ast.Starred):
                target = target.value
            if isinstance(target, ast.Attribute) and target.attr in attributes and not _is_self(target.value):
                found.append(f"{node.lineno}: {ast.unparse(target)}")
    return found


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def test_nobody_but_whitening_writes_its_state():
    attributes = _state_attributes()
    assert {"running_cov", "_started", "_frozen", "turns", "momentum", "frozen", "_exchange"} <= attributes
    others = [path for path in MODULES if path not in STATE_OWNERS]
    writes = {path: _writes_to_state(ast.parse(path.read_text(encoding="utf-8")), attributes) for path in others}
    assert {path.relative_to(ROOT).as_posix(): found for path, found in writes.items() if found} == {}


@pytest.mark.parametrize(
    "line",
    [
        "state.frozen = True",
        "layer.whitening._started = None",
        "state._holds += 1",
        "a, layer.whitening.momentum = 1, 2",
        "layer.whitening.running_mean.zero_()",
        "layer.whitening.running_cov[0] = 1",
        "layer.whitening.running_cov[0].copy_(x)",
        "setattr(state, '_collection', None)",
        "del state._exchange",
    ],
)
def test_a_write_to_the_state_would_be_seen(line):
    assert _writes_to_state(ast.parse(line), _state_attributes())


@pytest.mark.parametrize(
    ("home", "words"),
    [
        ("layers/statistics/schedule.py", r"""[!=]= *["'](fresh|stale|every)|["'](fresh|stale)["'] *[!=]=|period_of"""),
        ("layers/local_scale.py", r"""local_scale *[!=]= *["']|[!=]= *["'](l1|std)["']|["'](l1|std)["'] *[!=]="""),
    ],
)
def test_a_choice_is_read_in_one_place(home, words):
    """Elsewhere an object stands for it, which knows what to do: who compares takes an unknown for another."""
    found = {path.relative_to(PACKAGE).as_posix() for path in MODULES if re.search(words, path.read_text("utf-8"))}
    assert found <= {home}


def test_layers_do_not_load_the_compiler():
    """It takes as long as torch itself, in every process of a training and of its loaders."""
    code = (
        "import sys, torch; before = set(sys.modules); import ndpp_dense.layers, ndpp_dense.training.micro_batches;"
        "new = {name for name in set(sys.modules) - before if name.split('.')[0] != 'ndpp_dense'};"
        "heavy = sorted(name for name in sys.modules if name.startswith(('torch._dynamo', 'torch._inductor')));"
        "sys.exit(f'{sorted(new)} {heavy}' if heavy or len(new) > 20 else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr


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
