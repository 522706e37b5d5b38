"""Against servers on the loopback: every way in which a transfer goes wrong, and what is left behind."""

import hashlib
import resource
import time
from dataclasses import replace

import pytest

from ndpp_dense.zoo import Cache, Patience, ZooError, resolve


def _left(cache):
    """What lies in the cache, but locks."""
    return sorted(path.name for path in cache.blobs.iterdir() if path.suffix != ".lock") if cache.blobs.exists() else []


def _sha(content):
    return hashlib.sha256(content).hexdigest()


def test_a_file_is_fetched_once_and_kept_by_its_hash(serve, behaviour, fetch, cache, content):
    does = behaviour()
    address = serve(does)
    path = fetch(address)
    assert path == cache.blobs / _sha(content)
    assert path.read_bytes() == content
    assert fetch(address) == path
    assert len(does.requests) == 1
    assert _left(cache) == [_sha(content)]


def test_a_transfer_cut_in_the_middle_goes_on_where_it_ended(serve, behaviour, fetch, content):
    does = behaviour(cut_after=200_000, cuts=1)
    assert fetch(serve(does)).read_bytes() == content
    first, second = does.requests
    assert "Range" not in first
    assert second["Range"] == "bytes=200000-"  # two thirds of the bytes were not sent again
    assert second["If-Range"] == '"one"'


def test_a_later_process_goes_on_too(serve, behaviour, fetch, cache, content):
    with pytest.raises(ZooError, match="it ended after 200000 of 300000 bytes"):
        fetch(serve(behaviour(cut_after=100_000, cuts=2, etag='"a"')), patience=_once(2))
    assert _left(cache) == [f"{_sha(content)}.part", f"{_sha(content)}.part.json"]
    does = behaviour()
    assert fetch(serve(does)).read_bytes() == content
    (request,) = does.requests
    assert request["Range"] == "bytes=200000-"
    assert "If-Range" not in request  # another server, which does not know the first one's tag
    assert _left(cache) == [_sha(content)]


def test_a_server_that_ignores_ranges_starts_anew(serve, behaviour, fetch, content):
    does = behaviour(cut_after=200_000, cuts=1, ranges=False)
    assert fetch(serve(does)).read_bytes() == content
    assert len(does.requests) == 2


def test_a_file_that_changed_meanwhile_is_sent_whole(serve, behaviour, fetch, cache, content):
    address = serve(does := behaviour(cut_after=200_000, cuts=1, content=bytes(300_000), etag='"old"'))
    with pytest.raises(ZooError):
        fetch(address, patience=_once())
    does.content, does.etag = content, '"new"'
    assert fetch(address).read_bytes() == content
    assert does.requests[-1]["If-Range"] == '"old"'


def test_a_part_of_something_else_is_thrown_away(serve, behaviour, fetch, cache, content):
    cache.blobs.mkdir(parents=True)
    for wrong in (b"x" * 1000, bytes(len(content)), bytes(len(content) + 5)):
        cache.part(_sha(content)).write_bytes(wrong)
        assert fetch(serve(behaviour())).read_bytes() == content
        cache.blob(_sha(content)).unlink()


@pytest.mark.parametrize("stated", [299_999, 300_001, 10**12])
def test_a_wrong_length_is_seen_before_anything_is_fetched(serve, behaviour, fetch, stated):
    with pytest.raises(ZooError, match=f"it has {stated} bytes where 300000 are needed"):
        fetch(serve(behaviour(length=stated)))


def test_wrong_bytes_are_refused_at_every_mirror_and_one_message_lists_all(serve, behaviour, fetch, cache, content):
    wrong = [behaviour(content=bytes(300_000)), behaviour(content=content[:-1] + b"?"), behaviour(status=404)]
    addresses = [serve(does) for does in wrong]
    with pytest.raises(ZooError) as caught:
        fetch(*addresses)
    message = str(caught.value)
    assert all(f"{address}/toy-1.safetensors: " in message for address in addresses)
    assert message.count("its SHA-256 is") == 2
    assert "HTTP 404" in message
    assert "NDPP_ZOO_MIRROR" in message
    assert cache.blob(_sha(content)).name not in _left(cache)


def test_the_next_mirror_helps(serve, behaviour, fetch, content):
    broken, right = behaviour(status=500), behaviour()
    assert fetch(serve(broken), serve(right)).read_bytes() == content
    assert len(broken.requests) == 3  # worth another attempt


@pytest.mark.parametrize(("status", "attempts"), [(403, 1), (404, 1), (410, 1), (429, 3), (500, 3), (503, 3)])
def test_errors_of_the_server_are_named(serve, behaviour, fetch, status, attempts):
    does = behaviour(status=status)
    with pytest.raises(ZooError, match=f"HTTP {status}"):
        fetch(serve(does))
    assert len(does.requests) == attempts


def test_a_slow_loris_is_given_up(serve, behaviour, fetch):
    start = time.monotonic()
    with pytest.raises(ZooError, match="bytes a second, less than 5000"):
        fetch(serve(behaviour(delay=0.05, block=50)), patience=_once())
    with pytest.raises(ZooError, match="no source has"):  # a head that never ends
        fetch(serve(behaviour(head_delay=0.2)), patience=_once())
    assert time.monotonic() - start < 60


def test_nobody_there(fetch):
    with pytest.raises(ZooError, match="127.0.0.1:9/toy.*refused"):
        fetch("http://127.0.0.1:9")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"])
def test_redirects_lead_to_http_alone(serve, behaviour, fetch, target):
    with pytest.raises(ZooError, match="it redirects to .*, which is not followed"):
        fetch(serve(behaviour(status=302, location=target)))


def test_redirects_to_http_are_followed(serve, behaviour, fetch, content):
    right = serve(behaviour())
    assert fetch(serve(behaviour(status=302, location=f"{right}/x"))).read_bytes() == content


def test_a_full_disk_is_named_and_ends_the_search(serve, behaviour, fetch, cache, content):
    first, second = serve(behaviour()), behaviour()
    other = serve(second)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # the system writes no more than that into a file
    try:
        with pytest.raises(ZooError, match="the disk under .* is full: 200000 more bytes are needed.*NDPP_HOME"):
            fetch(first, other)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert second.requests == []
    assert not cache.blob(_sha(content)).exists()
    assert fetch(other).read_bytes() == content
    assert second.requests[0]["Range"] == "bytes=100000-"  # what had been fetched was kept


def test_a_cache_that_cannot_be_written_is_named(serve, behaviour, zoo, tmp_path, content):
    (tmp_path / "file").write_bytes(b"")
    index = zoo(serve(behaviour()))
    with pytest.raises(ZooError, match="cannot write to the cache .*NDPP_HOME"):
        resolve("toy", index=index, cache=Cache(tmp_path / "file" / "home"))


def test_what_is_in_the_cache_needs_no_lock(zoo, cache, content):
    cache.blobs.mkdir(parents=True)
    cache.blob(_sha(content)).write_bytes(content)
    cache.blobs.chmod(0o555)
    assert resolve("toy", index=zoo("http://127.0.0.1:9"), cache=cache).read_bytes() == content
    assert _left(cache) == [_sha(content)]
    assert len(list(cache.blobs.iterdir())) == 1


def test_a_damaged_blob_is_fetched_again(serve, behaviour, fetch, cache, content):
    cache.blobs.mkdir(parents=True)
    cache.blob(_sha(content)).write_bytes(content[:-1])
    assert fetch(serve(behaviour())).read_bytes() == content


def test_offline_with_and_without_the_file(serve, behaviour, fetch, monkeypatch, content):
    does = behaviour()
    address = serve(does)
    monkeypatch.setenv("NDPP_OFFLINE", "1")
    with pytest.raises(ZooError, match=r"NDPP_OFFLINE is set and toy-1.safetensors is not on this machine.*copy"):
        fetch(address)
    assert does.requests == []
    monkeypatch.delenv("NDPP_OFFLINE")
    fetch(address)
    monkeypatch.setenv("NDPP_OFFLINE", "1")
    assert fetch(address).read_bytes() == content
    assert len(does.requests) == 1


@pytest.mark.parametrize("kind", ["path", "file", "http", "memory"])
def test_mirrors_of_the_user_come_first(serve, behaviour, fetch, monkeypatch, tmp_path, content, kind):
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "toy-1.safetensors").write_bytes(content)
    if kind == "memory":  # any scheme that fsspec knows, as s3:// is
        fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed: it comes with torch")
        fsspec.filesystem("memory").pipe("/mirror/toy-1.safetensors", content)
    places = {"path": str(folder), "file": folder.as_uri(), "http": serve(behaviour()), "memory": "memory://mirror"}
    monkeypatch.setenv("NDPP_ZOO_MIRROR", f"{tmp_path / 'nothing'}, {places[kind]}")
    monkeypatch.setenv("NDPP_OFFLINE", "1" if kind in ("path", "file") else "0")  # which need no network
    listed = behaviour()
    assert fetch(serve(listed)).read_bytes() == content
    assert listed.requests == []


def test_mirrors_that_cannot_be(fetch, monkeypatch):
    monkeypatch.setenv("NDPP_ZOO_MIRROR", "nosuch://bucket dir::memory://x")
    with pytest.raises(ZooError, match=r"(?s)nosuch://bucket/toy-1.safetensors: .*chained addresses"):
        fetch()


def test_proxies_come_from_the_environment(serve, behaviour, fetch, monkeypatch, content):
    proxy = behaviour()
    address = serve(proxy)
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", address)
    assert fetch("http://weights.invalid").read_bytes() == content
    assert proxy.requests[0]["path"] == "http://weights.invalid/toy-1.safetensors"


def test_a_file_with_the_package_needs_no_cache(zoo, cache, content):
    index = zoo()
    shipped = index.shipped(index.models["toy"].files[0])
    shipped.parent.mkdir(parents=True)
    shipped.write_bytes(content)
    assert resolve("toy", index=index, cache=cache) == shipped
    assert not cache.home.exists()


def test_a_row_without_weights_gives_its_recipe(zoo, cache):
    index = zoo()
    empty = replace(index.models["toy"], files=())
    index = replace(index, models={"toy": empty})
    with pytest.raises(ZooError, match="toy has no weights yet, only a recipe: train it with: make toys"):
        resolve("toy", index=index, cache=cache)


def test_weights_that_nobody_offers_are_named_by_hash(zoo, cache, content):
    with pytest.raises(ZooError, match=f"nobody offers toy-1.safetensors .*{_sha(content)}.*train it with: make toys"):
        resolve("toy", index=zoo(), cache=cache)


def test_weights_of_a_later_package_are_refused(zoo, cache):
    index = zoo()
    later = replace(index.models["toy"], min_version="99.0")
    with pytest.raises(ZooError, match="toy needs ndpp-dense >= 99.0"):
        resolve("toy", index=replace(index, models={"toy": later}), cache=cache)


def test_an_unknown_name_has_neighbours(zoo):
    with pytest.raises(ZooError, match=r"no 'toi'. Did you mean toy\?"):
        resolve("ndpp://toi", index=zoo())


def _once(attempts=1):
    return Patience(timeout=2.0, window=1.0, min_rate=5_000, attempts=attempts, backoff=0.01)
