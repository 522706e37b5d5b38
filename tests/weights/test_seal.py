"""A sealed file loads everywhere, and no bit of it changes unnoticed."""

import errno
import io
import random

import numpy as np
import pytest
import torch

from ndpp_dense.weights import seal
from ndpp_dense.weights.files import WeightFileError, read_checkpoint
from ndpp_dense.weights.seal import DamagedFileError, check_seal, read_seal, write_sealed

STATE = {"model": {"w": torch.arange(3000.0)}, "done": 3, "rng": [torch.arange(5)]}
FACTS = {"run": "one", "step": 3}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "last.pth"
    write_sealed(path, lambda stream: torch.save(STATE, stream), FACTS)
    return path


def test_torch_reads_a_sealed_file_as_any_other(file):
    for mmap in (False, True):
        assert torch.equal(torch.load(file, weights_only=True, mmap=mmap)["model"]["w"], STATE["model"]["w"])
    found = check_seal(file)
    assert {name: found[name] for name in FACTS} == FACTS
    assert read_seal(file) == found
    copy = file.with_name("copy.pth")
    copy.write_bytes(file.read_bytes())
    assert check_seal(copy) == found


def test_every_damage_is_seen(file):
    content, generator = file.read_bytes(), random.Random(0)
    places = [*range(64), *range(len(content) - 400, len(content)), *generator.choices(range(len(content)), k=300)]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << generator.randrange(8)
        file.write_bytes(damaged)
        with pytest.raises(DamagedFileError):
            check_seal(file)
    for size in [0, 4, 100, len(content) // 2, len(content) - 1]:
        file.write_bytes(content[:size])
        with pytest.raises(WeightFileError):
            read_checkpoint(file)
    file.write_bytes(content + b"\0")
    with pytest.raises(DamagedFileError):
        check_seal(file)


def test_the_reader_looks_at_the_seal_and_does_without(file, tmp_path):
    assert read_checkpoint(file)["done"] == 3
    content = bytearray(file.read_bytes())
    content[-2] ^= 1  # of the hash itself
    file.write_bytes(content)
    torch.load(file, weights_only=True)  # torch does not look
    with pytest.raises(WeightFileError, match="not those that were written"):
        read_checkpoint(file)
    torch.save(STATE, tmp_path / "old.pth")
    assert check_seal(tmp_path / "old.pth") is None
    assert read_checkpoint(tmp_path / "old.pth")["done"] == 3


def test_numpys_files_take_a_seal_too(tmp_path):
    def write(stream):
        made = io.BytesIO()
        np.savez_compressed(made, a=np.arange(9))
        stream.write(made.getvalue())

    write_sealed(tmp_path / "a.npz", write, {})
    with np.load(tmp_path / "a.npz") as found:
        assert found["a"].sum() == 36
    assert check_seal(tmp_path / "a.npz") is not None


def test_a_full_disk_is_named_and_leaves_the_former_file(file, monkeypatch):
    """torch answers with "unexpected pos 704 vs 598": the cause must get through."""
    before = file.read_bytes()

    class Full:
        def __init__(self, stream):
            self.stream = stream

        def write(self, data):
            if self.stream.tell() > 1000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.stream.write(data)

    class Limited(seal._Hashed):
        def __init__(self, stream):
            super().__init__(stream)
            self._file = Full(stream)

    monkeypatch.setattr(seal, "_Hashed", Limited)
    with pytest.raises(OSError, match="No space left on device: last.pth was not written.*before are whole") as caught:
        write_sealed(file, lambda stream: torch.save(STATE, stream), FACTS)
    assert caught.value.errno == errno.ENOSPC
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["last.pth"]


@pytest.mark.parametrize("place", ["open file", "hash"])
def test_an_interrupt_is_not_hidden_by_the_writer_that_it_stops(file, monkeypatch, place):
    """torch's writer of zip files complains of half a file when it is left early."""

    class Interrupted(seal._Hashed):
        def _write(self, data):
            if place == "hash":
                super()._write(data)
            raise KeyboardInterrupt

    monkeypatch.setattr(seal, "_Hashed", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_sealed(file, lambda stream: torch.save({"w": torch.ones(9)}, stream), FACTS)
    assert torch.equal(torch.load(file)["model"]["w"], STATE["model"]["w"])
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_what_a_killed_process_left_goes_with_the_next_write(file):
    (file.parent / ".last.pth-k1lled").mkdir()
    (file.parent / ".other.pth-k1lled").mkdir()
    write_sealed(file, lambda stream: torch.save(STATE, stream), FACTS)
    assert sorted(path.name for path in file.parent.iterdir()) == [".other.pth-k1lled", "last.pth"]


def test_only_zip_files_can_be_sealed(tmp_path):
    with pytest.raises(ValueError, match="takes a zip file"):
        write_sealed(tmp_path / "a.txt", lambda stream: stream.write(b"hello" * 9), {})
