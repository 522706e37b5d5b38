"""Links of all pages lead somewhere: files are there, and headings have the names that anchors give them."""

import re

import pytest
from doc_pages import PAGES, ROOT, name, prose

LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^)\s>]+)>?\)")
CODE = re.compile(r"`[^`\n]*`")


def links(page):
    return [link for link in LINK.findall(CODE.sub("", prose(page))) if not re.match(r"\w+:", link)]


def anchors(page):
    """The names that GitHub and the site give a page's headings."""
    headings = re.findall(r"^#+ +(.+?)\s*$", prose(page), flags=re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def broken(page, root=ROOT):
    faults = []
    for link in links(page):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or not target.is_relative_to(root) or anchor and anchor not in anchors(target):
            faults.append(link)
    return faults


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    assert broken(page) == []


@pytest.mark.parametrize("link", ["gone.md", "README.md#nowhere", "#nowhere", "../other/README.md"])
def test_a_broken_link_would_be_seen(link, tmp_path):
    (tmp_path / "README.md").write_text("# Title\n")
    page = tmp_path / "page.md"
    page.write_text(f"[there](README.md) ![there](README.md#title)\n[gone]({link})\n`[no](link)`\n")
    assert broken(page, tmp_path) == [link]


def test_the_readme_leads_to_every_guide():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = [page for part in ("start", "guides") for page in (ROOT / "docs" / part).glob("*.md")]
    missing = [name(page) for page in pages if page.stem != "index" and name(page) not in readme]
    assert missing == []
