"""The pages that people read, and the blocks of code in them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES += [ROOT / "examples" / "README.md", ROOT / "model_zoo" / "README.md", ROOT / "configs" / "README.md"]
PAGES += sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)
FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```\s*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code: its language, its text, and the line where the text begins."""

    language: str
    text: str
    line: int


def name(page):
    """The path of a page from the root, as tests name it."""
    return page.relative_to(ROOT).as_posix()


def blocks(page, language=None):
    """All blocks of a page that are no directives of the site, or those in one language."""
    text = page.read_text(encoding="utf-8")
    found = [Block(m[2].strip(), m[3], text[: m.start(3)].count("\n") + 1) for m in FENCE.finditer(text)]
    return [b for b in found if not b.language.startswith("{") and language in (None, b.language)]


def prose(page):
    """The text of a page without its blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def commands(page):
    """The commands in the shell blocks of a page: words, as a shell would split them."""
    found = []
    for block in blocks(page, "bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while "&&" in words:
                found.append(words[: words.index("&&")])
                words = words[words.index("&&") + 1 :]
            found += [words] if words else []
    return found
