"""Every public module must say which of its names are for others, and have them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    path
    for path in (ROOT / "ndpp_dense").rglob("*.py")
    if not any(part.startswith("_") for part in path.relative_to(ROOT).parts)  # packages, __main__, private modules
)


def _bound(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the names that statements bind in a module, those within ``if``, ``try`` and ``with`` too."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name))
        for part in ("body", "orelse", "finalbody"):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from _bound(getattr(node, part, []))
        for handler in getattr(node, "handlers", []):
            yield from _bound(handler.body)


def _faults(source: str) -> list[str]:
    tree = ast.parse(source)
    lists = [n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"]
    if len(lists) != 1:
        return ["it has no __all__" if not lists else "it has two __all__"]
    names, bound = ast.literal_eval(lists[0]), set(_bound(tree.body))
    faults = [f"{name!r} is not there" for name in names if name not in bound]
    faults += [f"{name!r} is private" for name in names if name.startswith("_")]
    faults += [f"{name!r} is listed twice" for name in set(names) if names.count(name) > 1]
    return faults + ([] if names else ["its __all__ is empty: nobody can use it"])


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_public_modules_say_what_is_public(path):
    assert _faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("def f(): ...", "no __all__"),
        ("__all__ = ['f', 'g']\ndef f(): ...", "'g' is not there"),
        ("__all__ = ['g']\ndef f():\n    g = 1", "'g' is not there"),
        ("__all__ = ['_f']\ndef _f(): ...", "'_f' is private"),
        ("__all__ = ['f', 'f']\nf = 1", "'f' is listed twice"),
        ("__all__ = []", "empty"),
    ],
)
def test_faults_would_be_seen(source, fault):
    assert fault in " ".join(_faults(source))
    assert (
        _faults("import a.b\n__all__ = ['A', 'a', 'f', 'x']\ntry:\n    x = 1\nexcept E:\n    A: int = 2\nclass f: ...")
        == []
    )
