"""The README is short, says what the package asks for, and reads easily, as the guides do."""

import re

import pytest
from doc_pages import PAGES, ROOT, name, prose

README = (ROOT / "README.md").read_text(encoding="utf-8")
READ_FIRST = [page for page in PAGES if re.match(r"README|docs/(start|guides|explanation|faq|index)", name(page))]


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_the_install_matrix_is_what_is_asked_for():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    versions = re.findall(r"Programming Language :: Python :: (3\.\d+)", project)
    assert f"| Python | {', '.join(versions)} |" in README
    oldest = re.search(r'"torch>=([\d.]+)"', project)[1]
    newest = max(re.findall(r"^torch==(\d+\.\d+)", pins, flags=re.MULTILINE))
    assert f"| torch | {oldest} (the oldest that is asked for) to {newest} |" in README
    for pinned in ("mmsegmentation", "mmengine", "mmcv-lite"):
        version = re.search(rf"^{pinned}==([\d.]+)", pins, flags=re.MULTILINE)[1]
        assert version in README


def test_what_is_not_shown_is_said():
    assert "**Not shown yet:**" in README
    assert "COCO, Cityscapes and ImageNet" in README


@pytest.mark.parametrize("page", READ_FIRST, ids=name)
def test_sentences_are_short(page):
    lengths = [len(sentence.split()) for sentence in sentences(page)]
    if len(lengths) >= 5:
        assert sum(lengths) / len(lengths) <= 18
    assert [sentence for sentence in sentences(page) if len(sentence.split()) > 45] == []


def sentences(page):
    """The sentences of a page's paragraphs and lists, without tables and headings; code counts as one word."""
    text = re.sub(r"`[^`]+`", "code", prose(page))
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    lines = ["" if re.match(r"\s*(\||#|<!--|\$)", line) else line for line in text.splitlines()]
    parts = re.split(r"\n\s*\n|\n\s*(?:[-*]|\d\.) ", "\n".join(lines))
    found = [s.strip() for part in parts for s in re.split(r"(?<=[.:?!;])\s+", " ".join(part.split()))]
    return [sentence for sentence in found if len(sentence.split()) > 1]
