"""Generated sets must be complete or not there."""

from pathlib import Path

import pytest

from ndpp_dense.datasets.generated import default_root, folder_name, generate_once

pytest.importorskip("filelock", reason="filelock is not installed")


def test_a_set_is_made_once_and_a_failure_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "half").touch()
        raise RuntimeError("on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        generate_once("test", tmp_path / "set", fail)
    assert [p for p in tmp_path.iterdir() if p.is_dir()] == []
    for _ in range(2):
        generate_once("test", tmp_path / "set", lambda folder: (folder / "whole").touch(exist_ok=False))
    assert [p.name for p in (tmp_path / "set").iterdir()] == ["whole"]


def test_the_name_follows_version_and_recipe():
    names = {folder_name("x", version, {"size": size}) for version in (1, 2) for size in (8, 9)}
    assert len(names) == 4
    assert all(name.startswith(("x-v1-", "x-v2-")) for name in names)


def test_default_root_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("NDPP_HOME", str(tmp_path))
    assert default_root() == tmp_path / "datasets"
    monkeypatch.delenv("NDPP_HOME")
    assert default_root() == Path.home() / ".cache" / "ndpp_dense" / "datasets"
