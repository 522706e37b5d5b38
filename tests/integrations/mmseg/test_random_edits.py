"""Whatever is changed in a folder of labels: it is refused, warned of, or read as the files say.

    pytest -m slow -s tests/integrations/mmseg/test_random_edits.py

prints how many of 200 edits ended how.
"""

import random
import shutil
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

pytestmark = pytest.mark.mmseg

LABELS = "_gtFine_labelTrainIds.png"
STREETS = [0, 1, 2, 7, 8, 10, 11, 13]  # Cityscapes' numbers of the classes that the set has, in their new order


def _labels(change):
    def apply(image, labels, rng):
        numbers = change(np.asarray(Image.open(labels)), rng)
        Image.fromarray(numbers).save(labels)

    return apply


def _image(change):
    def apply(image, labels, rng):
        change(Image.open(image).copy(), rng).save(image)

    return apply


def _bytes(which, change):
    def apply(image, labels, rng):
        path = (image, labels)[which]
        path.write_bytes(change(bytearray(path.read_bytes()), rng))

    return apply


def _set(numbers, value, rng):
    numbers = numbers.copy()
    row, column = rng.randrange(numbers.shape[0] - 3), rng.randrange(numbers.shape[1] - 3)
    numbers[row : row + 3, column : column + 3] = value
    return numbers


def _flip(data, rng):
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _exif(image, rng):
    exif = Image.Exif()
    exif[274] = rng.randint(2, 8)
    return _WithExif(image, exif)


class _WithExif:
    def __init__(self, image, exif):
        self.image, self.exif = image, exif

    def save(self, path):
        self.image.save(path, exif=self.exif)


EDITS = {
    "another class": _labels(lambda n, rng: _set(n, rng.choice(STREETS), rng)),
    "a class that the set leaves out": _labels(lambda n, rng: _set(n, rng.choice([3, 4, 5, 18]), rng)),
    "no class": _labels(lambda n, rng: _set(n, 255, rng)),
    "a number without a class": _labels(lambda n, rng: _set(n, rng.choice([19, 33, 100, 254]), rng)),
    "16 bits": _labels(lambda n, rng: n.astype(np.uint16)),
    "16 bits and a large number": _labels(lambda n, rng: _set(n.astype(np.uint16), rng.choice([256, 259, 65535]), rng)),
    "labels in colour": _labels(lambda n, rng: np.dstack([n] * rng.choice([2, 3, 4]))),
    "labels of floats": lambda image, labels, rng: Image.fromarray(
        np.asarray(Image.open(labels)).astype(np.float32)
    ).save(labels, "TIFF"),
    "labels of another size": _labels(lambda n, rng: n[: n.shape[0] - rng.randint(1, 9)]),
    "labels turned": _labels(lambda n, rng: np.rot90(n, rng.randint(1, 3)).copy()),
    "labels with a palette": lambda image, labels, rng: Image.open(labels).convert("P").save(labels),
    "labels of one bit": _labels(lambda n, rng: n > 3),
    "labels are gone": lambda image, labels, rng: labels.unlink(),
    "labels are empty": _bytes(1, lambda data, rng: b""),
    "labels break off": _bytes(1, lambda data, rng: data[: rng.randrange(len(data))]),
    "a bit of the labels": _bytes(1, _flip),
    "a bit of the image": _bytes(0, _flip),
    "image breaks off": _bytes(0, lambda data, rng: data[: rng.randrange(len(data))]),
    "image is text": _bytes(0, lambda data, rng: b"<html>404</html>"),
    "image of 16 bits": lambda image, labels, rng: Image.fromarray(
        np.asarray(Image.open(image).convert("L")).astype(np.uint16) * 257
    ).save(image),
    "image with alpha": _image(lambda i, rng: i.convert("RGBA")),
    "image with a palette": _image(lambda i, rng: i.quantize(32)),
    "image of another size": _image(lambda i, rng: i.resize((i.width - 3, i.height))),
    "image turned by EXIF": _image(_exif),
    "image ends otherwise": lambda image, labels, rng: image.rename(image.with_suffix(".jpeg")),
    "image is gone": lambda image, labels, rng: image.unlink(),
    "image is hidden": lambda image, labels, rng: image.rename(image.with_name(f".{image.name}")),
    "hidden folder": lambda image, labels, rng: shutil.copytree(image.parent, image.parent / ".ipynb_checkpoints"),
    "another file": lambda image, labels, rng: image.with_name("Thumbs.db").touch(),
    "nothing": lambda image, labels, rng: None,
}


def expected(folder):
    """Labels as classes by hand, by name, of the images that end as they should."""
    found = {}
    for image in sorted((folder / "leftImg8bit" / "val").rglob("*_leftImg8bit.png")):
        if not image.name.startswith("."):
            labels = folder / "gtFine" / "val" / "demo" / image.name.replace("_leftImg8bit.png", LABELS)
            numbers = np.asarray(Image.open(labels)).astype(int)
            classes = np.full(numbers.shape, 255)
            for new, old in enumerate(STREETS):
                classes[numbers == old] = new
            found[image.name] = classes
    return found


def mean_iou(truth, guesses):
    """By hand, in percent."""
    pairs = [(truth[name], guesses[name]) for name in truth]
    values = []
    for number in range(len(STREETS)):
        known = [(t[t != 255] == number, g[t != 255] == number) for t, g in pairs]
        union = sum(int((t | g).sum()) for t, g in known)
        if union:
            values.append(sum(int((t & g).sum()) for t, g in known) / union)
    return 100 * float(np.mean(values))


def outcome(number, streets, folder, monkeypatch):
    """Makes one edit in a copy, and tells how it ended and what it was."""
    from mmengine.registry import init_default_scope
    from mmseg.registry import DATASETS

    from ndpp_dense.integrations.mmseg import ClassIoUMetric, checked_data
    from ndpp_dense.integrations.mmseg.run_config import build_config

    rng = random.Random(number)
    root = shutil.copytree(streets, folder / str(number))
    images = sorted((root / "leftImg8bit" / "val" / "demo").iterdir())
    image = rng.choice(images)
    labels = root / "gtFine" / "val" / "demo" / image.name.replace("_leftImg8bit.png", LABELS)
    guesses = {name: np.roll(classes, 5, 1) % len(STREETS) for name, classes in expected(root).items()}
    what = rng.choice(list(EDITS))
    EDITS[what](image, labels, rng)
    said = []
    monkeypatch.setattr(checked_data, "print_log", lambda text, *_: said.append(text))
    try:
        config = build_config("deeplabv3_ndpp_demo", dataset=str(root))
        init_default_scope("mmseg")
        samples = [*DATASETS.build(config.val_dataloader.dataset)]
    except (ValueError, FileNotFoundError) as error:
        named = image.name.split("_leftImg8bit")[0] in str(error) or "hidden folders" in str(error)
        return ("refused" if named and "\n" not in str(error) else f"unclear: {error}"), what
    metric = ClassIoUMetric(iou_metrics=["mIoU"])
    metric.dataset_meta = {"classes": STREETS}
    truth = expected(root)
    assert len(samples) == len(truth), what
    for sample in samples:
        packed = sample["data_samples"]
        name = packed.img_path.rsplit("/", 1)[-1]
        assert np.array_equal(packed.gt_sem_seg.data[0].numpy(), truth[name]), what
        pixels = np.asarray(Image.open(packed.img_path))
        if pixels.dtype == np.uint8 and pixels.ndim == 3 and "EXIF" not in what:
            assert np.array_equal(sample["inputs"].numpy()[::-1].transpose(1, 2, 0), pixels[..., :3]), what
        guess = torch.from_numpy(guesses[name])[None]
        metric.process({}, [{"pred_sem_seg": {"data": guess}, "gt_sem_seg": {"data": packed.gt_sem_seg.data}}])
    assert metric.evaluate(len(samples))["mIoU"] == pytest.approx(mean_iou(truth, guesses), abs=0.006), what
    return "warned" if said else "equal", what


def test_some_edits(streets, tmp_path, monkeypatch):
    counts = Counter(outcome(number, streets, tmp_path, monkeypatch)[0] for number in range(1000, 1016))
    assert set(counts) <= {"refused", "warned", "equal"}
    assert counts["refused"]
    assert counts["warned"] + counts["equal"]


@pytest.mark.slow
def test_two_hundred_edits(streets, tmp_path, monkeypatch, capsys):
    ends = [outcome(number, streets, tmp_path, monkeypatch) for number in range(200)]
    counts = Counter(kind for kind, _ in ends)
    with capsys.disabled():
        sys.stdout.write(f"\n200 edits of a folder of labels: {dict(counts)}\n")
    assert set(counts) == {"refused", "warned", "equal"}
    assert min(counts[kind] for kind in ("refused", "warned", "equal")) >= 10
