"""What a file may ask for: published files come out as they went in, and nothing in any file is executed."""

import argparse
import io
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict

import exploits
import numpy as np
import pytest
import torch

from ndpp_dense.weights.files import WeightFileError, read_checkpoint, read_weights
from ndpp_dense.weights.restricted import RefusedContentError, TrainingLog, read_pickle, read_torch

ARRAYS = {
    "single": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big": np.arange(4, dtype=">f4"),
    "half": np.arange(3, dtype=np.float16),
    "whole": np.arange(3),
    "mask": np.array([True, False]),
    "texts": np.array(["a", "bc"]),
    "nothing": np.zeros((0, 4), np.float32),
    "one": np.float64(1.5),
}
PUBLISHED = {
    "model": OrderedDict(ARRAYS),
    "__author__": "someone",
    "matching_heuristics": True,
    "nested": [{"steps": (1, 2.5, None)}, b"bytes", "\u00e4"],
}


def same(found, wanted):
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(same(found[key], value) for key, value in wanted.items())
    if isinstance(wanted, list | tuple):
        return type(found) is type(wanted) and all(map(same, found, wanted))
    if isinstance(wanted, np.ndarray | np.generic):
        right = found.dtype == wanted.dtype.newbyteorder("=") and found.flags.writeable == wanted.flags.writeable
        return right and np.array_equal(found, wanted)
    return found == wanted


class Python2Pickler(pickle._Pickler):
    """Writes texts and bytes as Python 2 did, in which Caffe2's files were made."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_text(self, value):
        data = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(b"T" + struct.pack("<I", len(data)) + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_text


def python2(content):
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(content)
    return stream.getvalue().replace(b"numpy._core", b"numpy.core")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_published_pickles_come_out_as_they_went_in(protocol):
    found = read_pickle(io.BytesIO(pickle.dumps(PUBLISHED, protocol=protocol)))
    assert same(found, PUBLISHED)
    assert type(found["model"]) is dict


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_both_names_of_numpy_are_known(core):
    data = pickle.dumps(PUBLISHED, protocol=2).replace(b"numpy._core", b"numpy.core").replace(b"numpy.core", core)
    assert same(read_pickle(io.BytesIO(data)), PUBLISHED)
    stream = io.BytesIO()
    torch.save(PUBLISHED, stream)  # names are of no fixed length in it, and its checksum is not that of a change
    assert same(read_torch(io.BytesIO(stream.getvalue())), PUBLISHED)


def test_files_of_python_2_are_read():
    blobs = {"conv1_w": ARRAYS["single"], "conv1_w_momentum": ARRAYS["half"]}
    found = read_pickle(io.BytesIO(python2({"blobs": blobs, "cfg": "MODEL:\n  TYPE: x\n"})))
    assert same(found, {"blobs": blobs, "cfg": "MODEL:\n  TYPE: x\n"})


NAMES = [
    ("os", "system"),
    ("posix", "system"),
    ("builtins", "eval"),
    ("__builtin__", "execfile"),
    ("builtins", "getattr"),
    ("builtins", "__import__"),
    ("importlib", "import_module"),
    ("functools", "partial"),
    ("operator", "methodcaller"),
    ("pickle", "loads"),
    ("torch", "load"),
    ("torch.serialization", "load"),
    ("torch.storage", "_load_from_bytes"),
    ("numpy", "load"),
    ("numpy", "fromfile"),
    ("numpy.testing._private.utils", "runstring"),
    ("numpy.core.multiarray", "fromfile"),
    ("collections", "defaultdict"),
    ("copy_reg", "_reconstructor"),
    ("types", "FunctionType"),
    ("ndpp_dense.weights.restricted", "_Maker"),
]


@pytest.mark.parametrize(("module", "name"), NAMES, ids=".".join)
def test_any_other_name_is_refused_and_named(module, name):
    data = f"c{module}\n{name}\n(S'true'\ntR.".encode()
    with pytest.raises(RefusedContentError, match=rf"it asks for \w+.*\.{name}, and only tensors, arrays"):
        read_pickle(io.BytesIO(data))


class Calls:
    """Pickled as a call of what may be named, with arguments that it is not meant for."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


REBUILD = np.zeros(1).__reduce__()[0]
OBJECTS = np.array([{"a": 1}, None], dtype=object)


@pytest.mark.parametrize(
    "content",
    [
        OBJECTS,
        np.zeros(2, [("a", "f4"), ("b", "O")]),
        np.zeros(2, "datetime64[s]"),
        Calls(np.dtype, ("O",)),
        Calls(np.dtype, ("f4",), (3, "<", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 8, 16)),
        Calls(np.ndarray, ((1,), np.dtype("f4"), b"\0" * 4)),
        Calls(REBUILD, (np.ndarray, (0,), b"b")),
        Calls(REBUILD, (np.ndarray, (0,), b"b"), (1, (1 << 40,), np.dtype("f4"), False, b"\0" * 4)),
        Calls(REBUILD, (np.ndarray, (0,), b"b"), (1, (2,), np.dtype("f4"), False, [1, 2])),
        Calls(np.float64(0).__reduce__()[0], (np.dtype("f8"), b"\0")),
        Calls(np.float64(0).__reduce__()[0], ("f8", b"\0" * 8)),
        np.ndarray,
        {"f": np.dtype("f4")},
    ],
)
def test_arrays_are_of_numbers_and_as_long_as_they_say(content, tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"w": content}, protocol=2))
    torch.save({"w": content}, tmp_path / "a.pth")
    for name in ("a.pkl", "a.pth"):
        with pytest.raises(WeightFileError, match="cannot read weights"):
            read_checkpoint(tmp_path / name)


def test_texts_are_encoded_in_latin1_only():
    data = b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00bz2\x86R."
    with pytest.raises(RefusedContentError, match="encodes texts in 'bz2'"):
        read_pickle(io.BytesIO(data))


def test_what_may_be_called_cannot_be_changed():
    data = b"\x80\x02cnumpy\ndtype\n}X\x0c\x00\x00\x00__setstate__K\x01sb."
    with pytest.raises(RefusedContentError, match="changes what it calls"):
        read_pickle(io.BytesIO(data))


@pytest.mark.parametrize("suffix", [".pkl", ".PKL", ".pth", ".pt", ".pyth", ".bin", ".ckpt", ""])
@pytest.mark.parametrize("make", [exploits.pickled, *exploits.TORCH], ids=lambda make: make.__name__)
def test_no_kind_of_file_runs_code(tmp_path, make, suffix):
    file = make(tmp_path / "mark", tmp_path / f"a{suffix}")
    with pytest.raises(WeightFileError, match="cannot read weights"):
        read_weights(file)
    assert not (tmp_path / "mark").exists()


def test_what_else_a_process_allows_is_not_allowed_here(tmp_path):
    before = torch.serialization.get_safe_globals()
    torch.save({"w": pickle.PickleBuffer}, tmp_path / "a.pth")
    torch.serialization.add_safe_globals([pickle.PickleBuffer])
    try:
        with pytest.raises(WeightFileError, match="asks for pickle.PickleBuffer"):
            read_checkpoint(tmp_path / "a.pth")
        assert pickle.PickleBuffer in torch.serialization.get_safe_globals()  # as it was
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_programs_and_archives_of_old_are_named(tmp_path):
    with pytest.raises(WeightFileError, match="it is a program .TorchScript., not weights"):
        read_weights(exploits.script(tmp_path / "mark", tmp_path / "a.pt"))
    with tarfile.open(tmp_path / "b.pth", "w") as archive:
        archive.add(tmp_path / "a.pt", "storages")
    with pytest.raises(WeightFileError, match="it is a tar archive, as torch wrote them before 2017"):
        read_weights(tmp_path / "b.pth")


def test_flags_of_reference_scripts_and_training_logs_are_inert(tmp_path):
    args = argparse.Namespace(lr=0.1, size=(1, 2), nested=argparse.Namespace(name="x"), array=np.arange(2))
    torch.save({"model": {"w": torch.ones(2)}, "args": args, "epoch": 3}, tmp_path / "a.pth")
    found = read_weights(tmp_path / "a.pth")
    assert found.extras["args"].keys() == {"lr", "size", "nested", "array"}
    assert found.extras["args"]["nested"] == {"name": "x"}
    assert found.extras["args"]["array"].tolist() == [0, 1]
    data = b"\x80\x02cmmengine.logging.history_buffer\nHistoryBuffer\n)\x81}X\x01\x00\x00\x00aK\x01sb."
    stream = io.BytesIO()
    torch.save({"w": torch.ones(1)}, stream)
    log = read_torch(io.BytesIO(_with_pickle(stream.getvalue(), data)))
    assert isinstance(log, TrainingLog)
    assert vars(log) == {"a": 1}


def _with_pickle(archive, data):
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            new.writestr(name, data if name.endswith("data.pkl") else old.read(name))
    return made.getvalue()


def test_one_thing_named_twice_stays_one(tmp_path):
    shared = [np.arange(3)]
    loop = {"a": shared, "b": (shared,)}
    shared.append(loop)
    for found in (read_pickle(io.BytesIO(pickle.dumps(loop, protocol=2))),):
        assert found["a"] is found["b"][0]
        assert found["a"][1] is found


def test_weights_that_look_like_the_end_of_a_zip_file_are_read(tmp_path):
    looks = np.frombuffer(b"PK\5\6" + bytes(range(96)), np.float32)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"w": looks}, protocol=2))
    assert read_weights(tmp_path / "a.pkl").entries["w"].numpy().tobytes() == looks.tobytes()
