"""The site builds without a warning, and asks nobody for anything when it is read."""

import importlib.util
import re
import subprocess
import sys

import pytest
from doc_pages import ROOT

PARTS = ("sphinx", "myst_parser", "pydata_sphinx_theme")
ASKS = {
    "*.html": re.compile(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"(?:https?:)?//[^\"]+"),
    "*.css": re.compile(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//[^)'\"]+"),
}
ABSENT = [part for part in PARTS if importlib.util.find_spec(part) is None]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if ABSENT:
        pytest.skip(f"{', '.join(ABSENT)} not installed: pip install -e '.[docs]' -c constraints.txt")
    folder = tmp_path_factory.mktemp("site")
    words = ["-m", "sphinx", "--builder", "html", "--fail-on-warning", "--keep-going", "--quiet", "docs", str(folder)]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_every_page_is_built(site):
    pages = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts]
    assert [page for page in pages if not (site / page.with_suffix(".html")).is_file()] == []


@pytest.mark.slow
def test_nothing_is_fetched_by_a_reader(site):
    files = [(path, asks) for suffix, asks in ASKS.items() for path in site.rglob(suffix)]
    asked = {path.relative_to(site): asks.findall(path.read_text(encoding="utf-8")) for path, asks in files}
    assert {path: found for path, found in asked.items() if found} == {}


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        ("*.html", '<script async src="https://cdn.example.org/a.js">'),
        ("*.html", '<link rel="stylesheet" href="//fonts.example.org/a">'),
        ("*.css", "@import 'https://example.org/a.css'"),
        ("*.css", "src: url(https://example.org/a.woff2)"),
    ],
)
def test_what_is_fetched_would_be_seen(suffix, text):
    assert ASKS[suffix].search(text)
