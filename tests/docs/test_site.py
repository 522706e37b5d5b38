"""The site builds without a warning, and asks nobody for anything when it is read."""

import importlib.util
import re
import subprocess
import sys

import pytest
from doc_pages import ROOT

PARTS = ("sphinx", "myst_parser", "pydata_sphinx_theme")
ABSENT = [part for part in PARTS if importlib.util.find_spec(part) is None]

ELSEWHERE = r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"(https?:)?//[^\"]+\""


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
    asked = [
        f"{path.relative_to(site)}: {found}"
        for path in site.rglob("*.html")
        for found in re.findall(
            r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"(https?:)?//[^\"]+\"", path.read_text()
        )
    ]
    asked += [
        f"{path.relative_to(site)}: {found}"
        for path in site.rglob("*.css")
        for found in re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//[^)'\"]+", path.read_text())
    ]
    assert asked == []
