"""The page of a run is one file that any browser shows, whatever its texts are."""

import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from browser import PHONE, opened

from ndpp_dense.reports.page import Page, Section, Table, write_page
from ndpp_dense.reports.plots import Panel, draw_losses, panel_png
from ndpp_dense.reports.run_report import Cost, Example, RunReport, duration, size, write_run_report

NASTY = [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "$x_1$ & {{ 7 * 7 }} {% raw %}", "猫と犬", "مرحبا",
    "x" * 300, "a\u202eb", "nul\0", "\ud800half", "</style><b>", "javascript:alert(1)",
]  # fmt: skip


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_data(self, data):
        self.text.append(data)


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def report(folder, names=("cat", "dog"), **changes):
    steps = np.arange(1, 201)
    curves = Panel("loss", "Total loss", {"total": (steps, 3 / steps)}, draw_losses)
    facts = {
        "command": "train-det", "folder": folder, "step": 200, "total": 200, "state": "finished", "metric": "mask AP",
        "figures": {"mask AP": 34.25, "box AP": math.nan}, "cost": Cost(7500, 200, 0.25), "device": "cpu",
        "tables": [Table("AP by class", ("class", "masks"), [(name, 12.5) for name in names], percent=True)],
        "panels": [curves], "settings": {f"key.{name}": name for name in names}, "warnings": list(names),
        "examples": [Example("worst", name, lambda: panel_png(curves)) for name in names[:2]],
        "conversion": ("2 layers converted", dict.fromkeys(names, "a rule")),
    }  # fmt: skip
    return RunReport(**{**facts, **changes})


def test_markup_of_users_is_shown_and_not_obeyed(tmp_path):
    folder = tmp_path / "<b>run"
    folder.mkdir()
    write_run_report(report(folder, NASTY))
    page = read(folder / "report.html")
    assert not {"script", "b", "iframe"} & {*page.tags}
    assert not [found for found in page.attributes if found[1].startswith("on")]
    shown = "".join(page.text)
    assert all(name in shown for name in NASTY[:5])
    assert "\\u202e" in shown
    assert "49" not in re.findall(r"\d+", shown.split("AP by class")[1].split("Curves")[0])
    assert all(value.startswith(("data:", "#")) for _, name, value in page.attributes if name in ("src", "href"))
    assert all(value for tag, name, value in page.attributes if (tag, name) == ("img", "alt"))


def test_secrets_are_left_out_of_page_and_json(tmp_path):
    address = "https://user:hunter2@host/data?token=hunter2"
    write_run_report(report(tmp_path, (address,)))
    assert "hunter2" not in (tmp_path / "report.html").read_text()
    assert "hunter2" not in (tmp_path / "report.json").read_text()


def test_headings_go_down_one_at_a_time_and_anchors_are_there(tmp_path):
    write_run_report(report(tmp_path))
    page = read(tmp_path / "report.html")
    levels = [int(tag[1]) for tag in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for tag, name, value in page.attributes if (tag, name) == ("a", "href")} <= set(ids)


def test_a_picture_that_fails_costs_itself_alone(tmp_path, caplog):
    def broken():
        raise OSError(2, "No such file", "cat.png")

    write_run_report(report(tmp_path, examples=[Example("best", "cat.png", broken)]))
    assert (tmp_path / "report.html").is_file()
    assert "cat.png was not drawn" in caplog.text
    (tmp_path / "report.html").unlink()
    write_run_report(report(tmp_path, tables=[object()]))
    assert not (tmp_path / "report.html").exists()
    assert (tmp_path / "report.json").is_file()


def test_numbers_are_short_and_gaps_are_dashes(tmp_path):
    table = Table("t", ("a", "b"), [("x", 1.26), ("y", math.nan), ("z", None), ("w", 1234567)], percent=True)
    assert [row[1] for row in table.cells()] == [("1.3", 1.26), ("–", -1.0), ("–", -1.0), ("1,234,567", 100.0)]
    write_page(Page("t", sections=[Section("Results", tables=[table])]), tmp_path / "new" / "a.html")
    assert "1,234,567" in "".join(read(tmp_path / "new" / "a.html").text)
    assert [duration(value) for value in (0.0123, 59.9, 600, 7500)] == ["0.0123 s", "59.9 s", "10 min", "2 h 05 min"]
    assert [size(value) for value in (10, 2048, 3 << 20, 5 << 30)] == ["10 bytes", "2 KiB", "3 MiB", "5.0 GiB"]


def test_a_browser_shows_it_on_a_telephone_and_asks_nobody(tmp_path):
    write_run_report(report(tmp_path, NASTY))
    seen = opened(tmp_path / "report.html", tmp_path)
    assert seen.console == []
    assert seen.asked == []
    assert seen.scripts == 0
    assert seen.broken == 0
    assert seen.width <= PHONE
    assert seen.wide == []
    assert seen.smallest >= 14
    assert "<script>alert(1)</script>" in seen.text


def test_what_is_wrong_would_be_seen(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        '<body><p style="width: 900px; font-size: 5px">wide</p><img src="http://host.invalid/a.png">'
        "<script>console.error('oh')</script>"
    )
    seen = opened(page, tmp_path)
    assert len(seen.console) >= 1
    assert seen.asked == ["http://host.invalid/a.png"]
    assert (seen.width, seen.broken, seen.smallest) == (900 + 8, 1, 5)
    assert "P" in seen.wide
