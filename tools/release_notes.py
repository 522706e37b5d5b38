#!/usr/bin/env python
"""Print what CHANGELOG.md says of a version: the notes of its release.

python tools/release_notes.py 0.1.0
"""

import re
import sys

from records import ROOT


def notes(changelog: str, version: str) -> str:
    """Return the part of a changelog under a version's heading.

    Raises:
        SystemExit: There is no such heading, or nothing stands under it; names the versions that there are.
    """
    parts = re.split(r"^## \[([^\]]+)\].*\n", changelog, flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    text = found.get(version, "").strip()
    if not text:
        raise SystemExit(f"CHANGELOG.md says nothing of {version}. It has: {', '.join(found)}.")
    return text


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("error: name one version: python tools/release_notes.py 0.1.0")
    print(notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), sys.argv[1]))
