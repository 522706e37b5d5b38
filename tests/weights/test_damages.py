"""Weight files with random damages: each is refused, or the reader says what was written, but for what cannot be known.

A ``.pth`` of torch 1.6 or later is a zip archive with a checksum for every record, and these are compared. The other
formats have none: where only numbers or names were overwritten, the file is whole, and only a hash of it tells. Counts
are logged: ``pytest -m slow --log-cli-level=info``.
"""

import logging
import pickle
import random
from collections import Counter

import pytest
import torch

from ndpp_dense.weights.files import WeightFileError, read_weights, write_weights

# By format, whether damaged numbers can be told from others without a hash of the file.
FORMATS = {"pth": True, "legacy.pth": False, "pkl": False, "safetensors": False}
_log = logging.getLogger(__name__)
DAMAGES = ("flip", "truncate", "zero", "random", "insert", "remove", "swap")


def weights(seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"conv1.weight": (8, 3, 3, 3), "bn1.weight": (8,), "fc.weight": (4, 8), "fc.bias": (4,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} | {
        "bn1.num_batches_tracked": torch.tensor(seed)
    }


def write(file, entries):
    if file.name.endswith("pkl"):
        content = {"model": {name: value.numpy() for name, value in entries.items()}, "__author__": "someone"}
        file.write_bytes(pickle.dumps(content, protocol=2))
    elif file.name.endswith("legacy.pth"):
        torch.save({"model": entries}, file, _use_new_zipfile_serialization=False)
    else:
        write_weights(file, entries, "model", {})
    return file.read_bytes()


def damaged(content, kind, others, draw):
    """The bytes after a damage."""
    data = bytearray(content)
    start = draw.randrange(len(data))
    length = min(draw.choice((1, 4, 64, 512, 4096)), len(data) - start)
    if kind == "flip":
        data[start] ^= 1 << draw.randrange(8)
    elif kind == "truncate":
        del data[start:]
    elif kind == "zero":
        data[start : start + length] = bytes(length)
    elif kind == "random":
        data[start : start + length] = draw.randbytes(length)
    elif kind == "insert":
        data[start:start] = draw.randbytes(length)
    elif kind == "remove":
        del data[start : start + length]
    else:
        return draw.choice(others)
    return bytes(data)


def outcome(file, entries):
    """What became of it: refused, the same, other numbers, or wrong."""
    try:
        found = read_weights(file).entries
    except WeightFileError as error:
        return "refused" if str(file) in str(error) and "\n" not in str(error) else "refused without its name"
    if found.keys() != entries.keys():
        return "other names"
    if any(found[name].shape != value.shape or found[name].dtype != value.dtype for name, value in entries.items()):
        return "other shapes"
    same = all(found[name].numpy().tobytes() == value.numpy().tobytes() for name, value in entries.items())
    return "same" if same else "other numbers"


def damage(folder, count, seed=0):
    """Damages so many files of each format; counts by format, damage and outcome."""
    draw, entries, counts = random.Random(seed), weights(1), Counter()
    whole = {form: write(folder / f"whole.{form}", entries) for form in FORMATS}
    for form in FORMATS:
        file = folder / f"a.{form}"
        others = [content for other, content in whole.items() if other != form] + [b"", b"<html>", b"version https"]
        for number in range(count):
            kind = DAMAGES[number % len(DAMAGES)]
            content = damaged(whole[form], kind, others, draw)
            if content == whole[form]:
                continue
            file.write_bytes(content)
            counts[form, kind, outcome(file, entries)] += 1
    return counts


def check(counts):
    for (form, kind, result), _ in counts.items():
        if result not in ("refused", "same"):
            # A header of safetensors, and the text of a pickle, are guarded by nothing either: a name may be another.
            assert not FORMATS[form], (form, kind, result)
            assert kind not in ("truncate", "swap"), (form, kind, result)


@pytest.mark.filterwarnings("ignore")
def test_damages(tmp_path):
    counts = damage(tmp_path, 84)
    assert sum(counts.values()) > 300
    check(counts)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_thousand_damages_of_each_format(tmp_path):
    counts = damage(tmp_path, 1000, seed=1)
    check(counts)
    for form in FORMATS:
        results = Counter()
        for (of, _, result), number in counts.items():
            results[result] += number * (of == form)
        _log.info("%s: %s", form, {result: number for result, number in results.items() if number})
