import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndpp_dense.zoo import ZooError, ZooIndex, load_index
from ndpp_dense.zoo.index import content_digest, write_index
from ndpp_dense.zoo.rows import Metric


@pytest.fixture
def written(zoo):
    index = zoo("http://127.0.0.1:9")
    metrics = (Metric("top1", 63.3333, "toys, held out", "measured", 0.05, 63.34), Metric("AP", 1.0, "x", "published"))
    row = replace(index.models["toy"], metrics=metrics, classes=("ä", "b"), params=1.5, seed=3)
    index = ZooIndex(
        index.path, ("http://127.0.0.1:8/base",), {"toy": row, "other": replace(row, name="other", files=())}
    )
    write_index(index)
    return index


def test_what_is_written_is_read(written):
    assert load_index(written.path) == written


def test_the_index_of_the_environment(written, monkeypatch):
    monkeypatch.setenv("NDPP_ZOO_INDEX", str(written.path))
    assert load_index().models.keys() == {"toy", "other"}
    monkeypatch.setenv("NDPP_ZOO_INDEX", str(written.path.parent / "none.json"))
    with pytest.raises(ZooError, match=r"cannot read the model zoo's index .*none.json"):
        load_index()


def test_an_edit_by_hand_is_seen(written):
    content = json.loads(written.path.read_text())
    content["models"][0]["seed"] = 4
    written.path.write_text(json.dumps(content))
    with pytest.raises(ZooError, match="does not have the digest that it states"):
        load_index(written.path)


def test_an_index_without_a_digest_says_so(written):
    content = json.loads(written.path.read_text())
    del content["digest"]
    written.path.write_text(json.dumps(content))
    with pytest.raises(ZooError, match="states no digest of its content: `ndpp zoo publish --refresh`"):
        load_index(written.path)


def test_what_a_row_lacks_is_named(written):
    assert "row 'toy': a file has no sha256. Correct" in _damaged(written, lambda row: row["files"][0].pop("sha256"))
    assert "it has no licence and unknown 'licens'" in _damaged(written, _misspelt)


def _misspelt(row):
    row["licens"] = row.pop("licence")


def _damaged(written, change):
    content = json.loads(written.path.read_text())
    change(content["models"][1])  # "toy"
    content["digest"] = content_digest(content)
    written.path.write_text(json.dumps(content))
    with pytest.raises(ZooError) as caught:
        load_index(written.path)
    return str(caught.value)


@pytest.mark.parametrize(
    "name", ["../x.safetensors", "/etc/passwd", "a/b", "a\\b", "..", ".hidden", "", "a b", "x" * 200, "a..b", "nul\0l"]
)
def test_hostile_file_names_are_refused(written, name):
    message = _damaged(written, lambda row: row["files"][0].update(name=name))
    assert "row 'toy'" in message
    assert "name" in message


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "../up", "a/../../b", "/etc/passwd", "ftp://x/y", "http:///x", "//host/x", "%2e%2e/x"]
    + ["a\\b", "http://x/\n", "s3://bucket/x", "javascript:x", ""],
)  # fmt: skip
def test_hostile_addresses_are_refused(written, url):
    assert "url" in _damaged(written, lambda row: row["files"][0].update(urls=[url]))


@pytest.mark.parametrize(
    ("field", "value"),
    [("sha256", "0" * 63), ("sha256", "../" + "0" * 61), ("size", 0), ("size", -1), ("size", 1 << 50), ("size", 1.5)]
    + [("size", True), ("format", "pickle"), ("urls", "http://x"), ("urls", [1]), ("extra", 1)],
)  # fmt: skip
def test_faulty_files_are_refused(written, field, value):
    message = _damaged(written, lambda row: row["files"][0].update({field: value}))
    assert field in message
    assert "row 'toy'" in message


@pytest.mark.parametrize(
    ("field", "value"),
    [("config", "../../x"), ("name", "a/b"), ("framework", "../keras"), ("version", 0), ("metrics", [{}])]
    + [("files", [3]), ("params", "many"), ("task", 3), ("seed", "one")],
)  # fmt: skip
def test_faulty_rows_are_refused(written, field, value):
    assert _damaged(written, lambda row: row.update({field: value}))


@settings(max_examples=500, deadline=None, derandomize=True)
@given(at=st.integers(0, 10**9), bit=st.integers(0, 7), cut=st.booleans())
def test_no_damage_of_an_index_goes_unseen(data_index, at, bit, cut):
    path, whole, read = data_index
    data = bytearray(whole)
    at %= len(data)
    if cut:
        del data[at:]
    else:
        data[at] ^= 1 << bit
    path.write_bytes(data)
    try:
        found = load_index(path)
    except ZooError as error:
        message, found = str(error), read
    else:
        message = str(path)
    assert str(path) in message
    assert found == read, "only where it says the same in another layout"


@pytest.fixture(scope="module")
def data_index(tmp_path_factory):
    from ndpp_dense.zoo import ZooFile, ZooModel

    path = tmp_path_factory.mktemp("zoo") / "index.json"
    file = ZooFile("toy-1.safetensors", "0123456789abcdef" * 4, 300_000, "safetensors", ("https://example.org/toy",))
    row = ZooModel(
        "toy", 1, "classification", "timm", "toy", "toys", "one step", "MIT", "make", files=(file,), params=1.5
    )
    index = ZooIndex(path, ("https://example.org",), {"toy": row})
    write_index(index)
    return path, path.read_bytes(), load_index(path)


def test_the_index_of_the_package_is_whole_and_its_configs_exist():
    from ndpp_dense.config_files import find_config

    index = load_index()
    assert index.models
    for model in index.models.values():
        find_config(model.config)
        for file in model.files:
            shipped = index.shipped(file)
            assert not shipped.exists() or shipped.stat().st_size == file.size


def test_no_checkpoint_lies_about_without_a_row():
    index = load_index()
    named = {file.name for model in index.models.values() for file in model.files}
    folder = index.path.parent / "checkpoints"
    assert {path.name for path in folder.glob("*") if path.name != ".gitkeep"} <= named
    assert sum(path.stat().st_size for path in folder.glob("*")) < 30_000_000  # the wheel holds them


def test_the_generated_pages_are_in_step():
    from ndpp_dense.zoo.pages import pages

    index = load_index()
    for name, text in pages(index).items():
        assert (index.path.parent / name).read_text(encoding="utf-8") == text, "run `ndpp zoo publish --refresh`"
