"""Files of weights: the formats that are read, what is refused, and how files are written."""

import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from ndpp_dense.weights.files import WeightFileError, read_weights, write_weights

WEIGHTS = {"conv1.weight": torch.arange(6.0).view(2, 3), "bn1.num_batches_tracked": torch.tensor(3)}


def same(entries):
    return entries.keys() == WEIGHTS.keys() and all(torch.equal(entries[name], WEIGHTS[name]) for name in WEIGHTS)


def dump(content, file):
    file.write_bytes(pickle.dumps(content, protocol=2))
    return file


@pytest.mark.parametrize("container", ["", "model", "state_dict"])
def test_torch_files(tmp_path, container):
    file = tmp_path / "a.pth"
    write_weights(file, WEIGHTS, container, {"source": "b.pth"}, {"meta": {"epoch": 3}} if container else None)
    found = read_weights(file)
    assert same(found.entries)
    assert found.container == container
    assert found.facts == ({"source": "b.pth"} if container else {})
    assert found.extras == ({"meta": {"epoch": 3}} if container else {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize("damaged", [False, True])
def test_reading_leaves_what_others_allowed_torch_to_read(tmp_path, damaged):
    before = set(torch.serialization.get_safe_globals())
    try:
        torch.serialization.add_safe_globals([np.ndarray, np.dtype, (WeightFileError, "builtins.getattr")])
        allowed = set(torch.serialization.get_safe_globals())
        write_weights(tmp_path / "a.pth", WEIGHTS, "model", {})
        if damaged:
            (tmp_path / "a.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:99])
            with pytest.raises(WeightFileError):
                read_weights(tmp_path / "a.pth")
        else:
            assert same(read_weights(tmp_path / "a.pth").entries)
        assert set(torch.serialization.get_safe_globals()) == allowed
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(list(before))


def test_safetensors(tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    file = tmp_path / "a.safetensors"
    tied = {**WEIGHTS, "conv1.weight": WEIGHTS["conv1.weight"].t().contiguous().t()}
    write_weights(file, tied, "state_dict", {"ndpp": {"eps": 0.1}})
    found = read_weights(file)
    assert same(found.entries)
    assert found.facts == {"ndpp": {"eps": 0.1}}
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(WeightFileError, match=r"cannot read weights .*a.safetensors \(\d+ bytes\)"):
        read_weights(file)


def test_a_view_is_saved_without_the_rest(tmp_path):
    big = torch.zeros(100_000)
    write_weights(tmp_path / "a.pth", {"conv1.weight": big[:4]}, "", {})
    assert (tmp_path / "a.pth").stat().st_size < 5_000


def test_arrays_in_a_pickle(tmp_path):
    arrays = OrderedDict((name, value.numpy()) for name, value in WEIGHTS.items())
    arrays["conv1.weight"].flags.writeable = False
    found = read_weights(dump({"model": arrays, "__author__": "someone"}, tmp_path / "a.pkl"))
    assert same(found.entries)
    assert found.extras == {"__author__": "someone"}
    assert same(read_weights(dump({**arrays, "bn1.num_batches_tracked": np.int64(3)}, tmp_path / "b.pkl")).entries)


class Evil:
    def __reduce__(self):
        return eval, ("1/0",)


def test_a_pickle_runs_no_code(tmp_path):
    with pytest.raises(WeightFileError, match=r"it asks for \w+\.eval, and only tensors, arrays"):
        read_weights(dump({"model": Evil()}, tmp_path / "a.pkl"))
    torch.save({"model": Evil()}, tmp_path / "b.pth")
    with pytest.raises(WeightFileError, match="holds more than tensors"):
        read_weights(tmp_path / "b.pth")


@pytest.mark.parametrize("content", [{}, [1], {"epoch": 3, "loss": "low"}, {"model": {}}])
@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_files_without_weights(tmp_path, content, suffix):
    file = tmp_path / f"a.{suffix}"
    if suffix == "pkl":
        dump(content, file)
    else:
        torch.save(content, file)
    with pytest.raises(WeightFileError, match=r"it holds (a list|no weights but \w+)"):
        read_weights(file)


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_truncated_and_foreign_files(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    write_weights(tmp_path / "whole.pth", WEIGHTS, "model", {})
    for content in ((tmp_path / "whole.pth").read_bytes()[:-200], b"", b"no weights at all"):
        file.write_bytes(content)
        with pytest.raises(WeightFileError, match=rf"a.{suffix} \({len(content)} bytes\): .*truncated, corrupt"):
            read_weights(file)


def test_averaged_weights_come_first(tmp_path):
    torch.save({"model": {"w": torch.zeros(1)}, "model_ema": WEIGHTS, "epoch": 3}, tmp_path / "a.pth")
    assert same(read_weights(tmp_path / "a.pth").entries)


def test_paths(tmp_path):
    (tmp_path / "resnet50.pth").touch()
    with pytest.raises(FileNotFoundError, match=r"nearest names there: resnet50.pth"):
        read_weights(tmp_path / "resnet5O.pth")
    with pytest.raises(FileNotFoundError, match="folder exists: False"):
        read_weights(tmp_path / "no" / "a.pth")
    with pytest.raises(ValueError, match=r"a.pkl: its name must end in .pth or .safetensors"):
        write_weights(tmp_path / "a.pkl", WEIGHTS, "model", {})


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\ufeff\n <!DOCTYPE HTML><html><title>Sign in</title>", "it is a web page.*by its link 'download' or 'raw'"),
        ("<html lang=en>", "it is a web page"),
        ('<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML text.*no permission"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "a pointer of Git LFS.*git lfs pull"),
        ('{"message": "not found"}', "a JSON text"),
    ],
)
def test_what_a_server_sent_in_place_of_weights_is_named(tmp_path, suffix, text, message):
    file = tmp_path / f"a{suffix}"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(WeightFileError, match=message):
        read_weights(file)


@pytest.mark.parametrize("container", ["net", "model_state_dict", "weights"])
def test_weights_under_a_name_of_the_users(tmp_path, container):
    file = tmp_path / "a.pth"
    torch.save({container: WEIGHTS, "epoch": 3, "optimizer": {"state": {}, "param_groups": []}}, file)
    assert same(read_weights(file).entries)
    torch.save({"generator": WEIGHTS, "critic": WEIGHTS, "epoch": 3}, file)
    with pytest.raises(WeightFileError, match=r"several entries of weights \(generator, critic\): save one of them"):
        read_weights(file)
