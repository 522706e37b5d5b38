"""Opens a page in a headless Chromium: what its console says, whom it asks, how wide it gets on a telephone."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
PHONE = 400  # pixels
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-default-apps", "--disable-sync", "--no-first-run", "--enable-logging=stderr",
)  # fmt: skip
_FRAME = """<!DOCTYPE html><body><iframe style="width: {width}px; height: 800px; border: 0" srcdoc="{page}"></iframe>
<script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument, all = [...page.querySelectorAll("body *")];
  const clipped = all.filter((e) => e.getBoundingClientRect().right > {width} + 1 && !e.closest(".scroll"));
  const size = (e) => parseFloat(page.defaultView.getComputedStyle(e).fontSize);
  const broken = [...page.images].filter((i) => !i.complete || !i.naturalWidth);
  document.title = JSON.stringify({{
    width: page.documentElement.scrollWidth, wide: clipped.map((e) => e.tagName), broken: broken.length,
    smallest: Math.min(...all.filter((e) => e.innerText).map(size)),
    scripts: page.scripts.length, text: page.body.innerText,
  }});
}};
</script>"""


@dataclass(frozen=True)
class Seen:
    """What came of it."""

    console: list[str]
    asked: list[str]
    width: int
    wide: list[str]
    broken: int
    smallest: float
    scripts: int
    text: str


def opened(page, folder):
    """Opens a file, 400 pixels wide, and returns what was seen; skips where there is no browser."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    frame, net = folder / "frame.html", folder / "net.json"
    text = page.read_text(encoding="utf-8")
    frame.write_text(_FRAME.format(width=PHONE, page=html.escape(text)), encoding="utf-8")
    words = [
        CHROMIUM,
        *_FLAGS,
        f"--user-data-dir={folder / 'profile'}",
        f"--log-net-log={net}",
        "--dump-dom",
        frame.as_uri(),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title, f"the page did not load: {done.stderr[-2000:]}"
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Seen(console=console, asked=_asked_by_page(net), **json.loads(html.unescape(title[1])))


def _asked_by_page(net):
    """Addresses that the page asked for; the browser has its own errands, which no page initiates."""
    events = [event.get("params", {}) for event in json.loads(net.read_text(encoding="utf-8"))["events"]]
    pages = [found for found in events if found.get("initiator", "not an origin") != "not an origin"]
    return sorted({found["url"] for found in pages if found.get("url", "").startswith(("http", "ws"))})
