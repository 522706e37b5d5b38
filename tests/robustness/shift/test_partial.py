"""What was measured before is only taken up where it is what was written, for that batch and those settings."""

import random
import shutil

import numpy as np
import pytest

from ndpp_dense.robustness.shift.partial import PartialResults

SETTINGS = {"name": "a", "shifts": [[0, 0], [0, 1]]}
COUNTS = {"top1": np.arange(600.0).reshape(2, 300)}


def test_damaged_batches_are_measured_again(tmp_path):
    kept = PartialResults(tmp_path, SETTINGS)
    kept.write(0, COUNTS)
    assert np.array_equal(kept.read(0)["top1"], COUNTS["top1"])
    assert kept.read(1) is None
    file = tmp_path / "batch_000000.npz"
    content, generator = file.read_bytes(), random.Random(0)
    for _ in range(200):
        damaged = bytearray(content)
        damaged[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        file.write_bytes(damaged)
        assert kept.read(0) is None
    for size in (0, 1, 100, len(content) - 1):
        file.write_bytes(content[:size])
        assert kept.read(0) is None


def test_a_batch_of_another_place_or_measurement_is_measured_again(tmp_path):
    kept = PartialResults(tmp_path / "one", SETTINGS)
    kept.write(0, COUNTS)
    shutil.copy(tmp_path / "one" / "batch_000000.npz", tmp_path / "one" / "batch_000001.npz")
    assert kept.read(1) is None
    other = PartialResults(tmp_path / "other", {**SETTINGS, "name": "b"})
    shutil.copy(tmp_path / "one" / "batch_000000.npz", tmp_path / "other" / "batch_000000.npz")
    assert other.read(0) is None
    with pytest.raises(ValueError, match="another measurement"):
        PartialResults(tmp_path / "one", {**SETTINGS, "name": "b"})
