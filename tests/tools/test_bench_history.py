"""The way to the fast path: its commits are there, and its table is made of the record."""

import json
import subprocess

import bench_history as script
import pytest


def test_every_commit_follows_the_one_before():
    words = ["git", "-C", str(script.ROOT)]
    shallow = subprocess.run([*words, "rev-parse", "--is-shallow-repository"], capture_output=True, text=True)
    if shallow.stdout.strip() != "false":
        pytest.skip("a clone without history")
    for before, after in zip(script.WAY, script.WAY[1:], strict=False):
        subprocess.run([*words, "merge-base", "--is-ancestor", before.commit, after.commit], check=True)


def test_a_commit_that_cannot_be_had_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(script, "WAY", (script.Way("0000000", "nothing", ""),))
    monkeypatch.setattr(script, "RECORD", tmp_path / "record.json")
    with pytest.raises(RuntimeError, match=r"0000000.*git fetch --unshallow"):
        script.run(1)
    assert not (tmp_path / "record.json").exists()


def test_the_table_has_a_row_a_commit(monkeypatch, tmp_path):
    page, record = tmp_path / "page.md", tmp_path / "record.json"
    page.write_text("before\n<!-- bench_history -->\nwhat stood here\n<!-- /bench_history -->\nafter\n")
    peers = {"ND++ fast": {"ratio": 1.5, "ratio_quartiles": [1.25, 1.75]}}
    steps = [{"commit": way.commit, "peers": peers} for way in script.WAY]
    record.write_text(json.dumps({"machine": {"hardware": "a machine", "load": 0.5}, "steps": steps}))
    monkeypatch.setattr(script, "PAGE", page)
    monkeypatch.setattr(script, "RECORD", record)
    script.write_table()
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "what stood here" not in text
    assert text.count("1.500 (1.250-1.750)") == len(script.WAY)
    assert "a machine" in text
