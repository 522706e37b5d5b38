"""A cache that others may write to: what they put there leads nowhere, and is not believed."""

import hashlib
import os

import pytest
import torch

from ndpp_dense.zoo import ZooError, views
from ndpp_dense.zoo.index import write_index
from ndpp_dense.zoo.publish import write_weights
from ndpp_dense.zoo.weights import read_verified

WEIGHTS = {"w": torch.arange(4.0)}


@pytest.fixture
def victim(tmp_path):
    file = tmp_path / "of_mine.txt"
    file.write_text("mine")
    return file


def digest(content):
    return hashlib.sha256(content).hexdigest()


LINKS = [(link, suffix) for link in ("symlink", "fifo", "folder", "broken") for suffix in (".part", ".lock")]


@pytest.mark.parametrize(("link", "suffix"), [*LINKS, ("hardlink", ".part")])  # a lock is not written to
def test_no_link_is_written_through(serve, behaviour, fetch, cache, content, victim, link, suffix):
    cache.blobs.mkdir(parents=True)
    path = cache.blobs / f"{digest(content)}{suffix}"
    if link == "symlink":
        path.symlink_to(victim)
    elif link == "broken":
        path.symlink_to(victim.with_name("new.txt"))
    elif link == "hardlink":
        os.link(victim, path)
    elif link == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(ZooError, match=rf"{suffix} is a link or no file"):
        fetch(serve(behaviour()))
    assert victim.read_text() == "mine"
    assert not victim.with_name("new.txt").exists()


@pytest.mark.parametrize("link", ["symlink", "fifo"])
def test_notes_are_replaced_not_followed(serve, behaviour, fetch, cache, content, victim, link):
    cache.blobs.mkdir(parents=True)
    note = cache.part(digest(content)).with_suffix(".part.json")
    note.symlink_to(victim) if link == "symlink" else os.mkfifo(note)
    cache.part(digest(content)).write_bytes(content[:1000])
    does = behaviour(cut_after=0)
    with pytest.raises(ZooError, match="no source has"):
        fetch(serve(does))
    assert victim.read_text() == "mine"
    assert note.is_file()
    assert not note.is_symlink()


def test_pruning_removes_links_not_what_they_lead_to(cache, victim):
    (cache.home / "views" / "7").mkdir(parents=True)
    cache.blobs.mkdir()
    for place in (cache.blobs / "x.part", cache.home / "views" / "7" / "y.pth", cache.blobs / "x.lock"):
        place.symlink_to(victim)
    removed = cache.prune(set())
    assert {path.name for path, _ in removed} == {"x.part", "y.pth"}
    assert victim.read_text() == "mine"


@pytest.fixture
def viewed(zoo, monkeypatch):
    """A model zoo with real weights, and no views yet; the row's file."""
    index = zoo()
    row = write_weights(index.models["toy"], WEIGHTS, {}, index)
    index.models["toy"] = row
    write_index(index)
    monkeypatch.setenv("NDPP_ZOO_INDEX", str(index.path))
    monkeypatch.setattr(views, "_written", {})
    return row.files[0]


def held(path):
    return torch.load(path, weights_only=True)["model"]["w"].tolist()


def test_views_are_named_by_hash_in_a_folder_of_ones_own(viewed, cache):
    path = views.torch_view("ndpp://toy")
    assert path.name == f"{viewed.sha256}.pth"
    assert path.parent.parent == cache.home / "views"
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert held(path) == [0, 1, 2, 3]


def test_a_view_that_was_changed_is_written_anew(viewed, victim):
    path = views.torch_view("toy")
    assert views.torch_view("toy") == path
    torch.save({"model": {"w": torch.ones(4)}}, path)
    assert held(views.torch_view("toy")) == [0, 1, 2, 3]
    path.unlink()
    path.symlink_to(victim)
    assert held(views.torch_view("toy")) == [0, 1, 2, 3]
    assert victim.read_text() == "mine"
    path.unlink()
    assert held(views.torch_view("toy")) == [0, 1, 2, 3]


@pytest.mark.parametrize("how", ["open to all", "link"])
def test_a_folder_that_others_can_write_to_holds_no_views(viewed, cache, tmp_path, how):
    folder = cache.home / "views" / str(os.getuid())
    if how == "link":
        folder.parent.mkdir(parents=True)
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.mkdir(parents=True)
        folder.chmod(0o777)
    path = views.torch_view("toy")
    assert cache.home not in path.parents
    assert held(path) == [0, 1, 2, 3]
    assert list(folder.iterdir()) == []


def test_a_blob_of_another_size_is_not_read(viewed, tmp_path):
    (tmp_path / "big").write_bytes(b"0" * (viewed.size + 1))
    with pytest.raises(ZooError, match="it is damaged or was changed"):
        read_verified(tmp_path / "big", viewed)
