"""Whatever is changed in a COCO file: it is refused, warned of, or evaluated as the file says.

    pytest -m slow -s tests/integrations/detectron2/test_random_edits.py

prints how many of 200 edits ended how.
"""

from __future__ import annotations

import copy
import json
import random
import sys
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: tools/install_detectron2.py")

import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from ndpp_dense.integrations.detectron2.evaluation import evaluate
from ndpp_dense.integrations.detectron2.run_config import build_config

pytestmark = pytest.mark.detectron2

HEIGHT, WIDTH = 48, 64
ODD = [None, True, "", "7", -1, 0, 1, 2.5, 1e9, float("nan"), float("inf"), [], {}, [1, 2], 10**30, 3, 5, 20]
KEYS = ["id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "height", "width", "file_name"]
KEYS += ["name", "ignore"]
MASKS = [
    None,
    [],
    [[1, 1, 5, 5]],
    [[1, 1, 5, 1, 5, 5, 3]],
    [1, 1, 5, 1, 5, 5],
    [[1, 1, 9, 9, 5, 5]],
    [[1, 1, 1e9, 1, 5, 5]],
    {"size": [WIDTH, HEIGHT], "counts": [0, WIDTH * HEIGHT]},
    {"size": [HEIGHT, WIDTH], "counts": [0, WIDTH * HEIGHT]},
    {"size": [HEIGHT, WIDTH], "counts": "0c2"},
    [[1, 1, 20, 1, 20, 20]],
]


class Guess(torch.nn.Module):
    """Finds what the whole file has, a little beside it; one object in five it does not find."""

    def __init__(self, document):
        super().__init__()
        rng = np.random.default_rng(0)
        self.found = {}
        for entry in document["annotations"]:
            if rng.random() < 0.8:
                box = np.array(entry["bbox"], float) + rng.normal(0, 0.8, 4)
                score = round(float(rng.uniform(0.1, 1)), 6)
                self.found.setdefault(entry["image_id"], []).append((box, entry["category_id"] - 1, score))

    def forward(self, inputs):
        answers = []
        for given in inputs:
            found = self.found.get(given["image_id"], [])
            boxes = np.reshape([box for box, _, _ in found], (-1, 4))
            result = Instances((given["height"], given["width"]))
            result.pred_boxes = Boxes(torch.tensor(np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])))
            result.pred_classes = torch.tensor([number for _, number, _ in found], dtype=torch.int64)
            result.scores = torch.tensor([score for _, _, score in found])
            answers.append({"instances": result})
        return answers


def make(folder):
    """A whole file of squares, and its images."""
    rng = random.Random(0)
    images, annotations = [], []
    for number in range(1, 7):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH})
        for _ in range(4):
            width, height = rng.randint(8, 24), rng.randint(8, 24)
            x, y = rng.randint(0, WIDTH - width), rng.randint(0, HEIGHT - height)
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            shape = {"bbox": [x, y, width, height], "area": width * height, "segmentation": [corners]}
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": rng.randint(1, 3), "iscrowd": 0}
            annotations.append({**entry, **shape})
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": n, "name": name} for n, name in enumerate("abc", 1)],
    }


def edit(document, rng):
    """Changes one thing, or one thing in many entries; returns what."""
    section = rng.choice(["annotations"] * 6 + ["images", "categories"])
    entries = document[section]
    chosen = entries if rng.random() < 0.2 else [rng.choice(entries)]
    kind = rng.choice(["value"] * 6 + ["number"] * 6 + ["mask"] * 3 + ["key", "entry", "twice", "order", "ids", "box"])
    key = rng.choice([key for key in KEYS if key in entries[0] or key == "ignore"])
    if kind == "value":
        value = rng.choice(ODD)
        for entry in chosen:
            entry[key] = copy.deepcopy(value)
        return f"{section} x {len(chosen)}: {key} = {value!r}"
    if kind == "number":
        place, change = (
            rng.randrange(4),
            rng.choice([lambda v: -v, lambda v: v * 10, lambda v: v / 64, lambda v: v + 40]),
        )
        for entry in document["annotations"] if len(chosen) > 1 else [rng.choice(document["annotations"])]:
            entry["bbox"][place] = change(entry["bbox"][place])
        return f"bbox[{place}]"
    if kind == "mask":
        mask = rng.choice(MASKS)
        rng.choice(document["annotations"])["segmentation"] = copy.deepcopy(mask)
        return f"segmentation = {mask!r}"
    if kind == "key":
        for entry in chosen:
            entry.pop(key, None)
    elif kind == "entry":
        entries.remove(chosen[0])
    elif kind == "twice":
        entries.append(copy.deepcopy(chosen[0]))
    elif kind == "order":
        rng.shuffle(entries)
    elif kind == "ids":
        step = rng.choice([-30, -1, 100, 2**40])
        for entry in document["annotations"]:
            entry["id"] += step
        return f"ids + {step}"
    else:  # corners, shares, other order of the numbers
        how = rng.choice([lambda x, y, w, h: [x, y, x + w, y + h], lambda x, y, w, h: [x / 64, y / 48, w / 64, h / 48]])
        for entry in document["annotations"] if rng.random() < 0.5 else [rng.choice(document["annotations"])]:
            entry["bbox"] = how(*entry["bbox"])
        return "boxes in other units"
    return f"{kind} {key} of {section}"


def average_precision(document, model):
    """Box AP by hand: no ids, no pycocotools; in percent, mean over thresholds and categories that have objects."""
    values = []
    for category in sorted(document["categories"], key=lambda entry: entry["id"]):
        number = sorted(entry["id"] for entry in document["categories"]).index(category["id"])
        truth = [entry for entry in document["annotations"] if entry["category_id"] == category["id"]]
        if not any(not entry["iscrowd"] for entry in truth):
            continue
        for threshold in np.linspace(0.5, 0.95, 10):
            values.append(_precision(document, model, number, truth, threshold))
    return 100 * float(np.mean(values))


def _precision(document, model, number, truth, threshold):
    marks = []
    for image in document["images"]:
        own = [entry for entry in truth if entry["image_id"] == image["id"]]
        own.sort(key=lambda entry: entry["iscrowd"])
        found = [item for item in model.found.get(image["id"], []) if item[1] == number]
        taken = set()
        for box, _, score in sorted(found, key=lambda item: -item[2]):
            best, index = min(threshold, 1 - 1e-10), None
            for place, entry in enumerate(own):
                if place in taken and not entry["iscrowd"]:
                    continue
                if index is not None and not own[index]["iscrowd"] and entry["iscrowd"]:
                    break
                overlap = _overlap(box, entry["bbox"], entry["iscrowd"])
                if overlap >= best:
                    best, index = overlap, place
            if index is not None:
                taken.add(index)
            if index is None or not own[index]["iscrowd"]:
                marks.append((score, index is not None))
    hits = np.cumsum([hit for _, hit in sorted(marks, key=lambda mark: -mark[0])])
    total = sum(not entry["iscrowd"] for entry in truth)
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1] if len(hits) else hits
    places = np.searchsorted(hits / total, np.linspace(0, 1, 101), side="left")
    return float(np.mean([precision[place] if place < len(precision) else 0.0 for place in places]))


def _overlap(one, other, crowd):
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / (one[2] * one[3] if crowd else one[2] * one[3] + other[2] * other[3] - shared)


def outcome(number, whole, model, folder, config):
    """Makes one edit, and tells how it ended and what it was."""
    document = copy.deepcopy(whole)
    rng = random.Random(number)
    what = edit(document, rng)
    file = folder / f"edit_{number}.json"
    file.write_text(json.dumps(document))
    flags = [f"e{number}_{split}={file}:{folder}" for split in ("train", "val")]
    words = ["MODEL.ROI_HEADS.NUM_CLASSES", str(len(document["categories"]))]
    try:
        cfg, remarks = build_config(str(config), datasets=flags, output=str(folder / "run"), overrides=words)
    except (ValueError, FileNotFoundError) as error:
        clear = f"e{number}_" in str(error) and "\n" not in str(error)
        return ("refused" if clear else f"unclear: {error}"), what
    loaded = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
    assert sum(len(record["annotations"]) for record in loaded) == len(document["annotations"]), what
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.MASK_ON = False
    results = evaluate(cfg, model)["bbox"]["AP"]
    assert results == pytest.approx(average_precision(document, model), abs=1e-4), what
    return "warned" if warnings(remarks) else "equal", what


def warnings(remarks):
    """All but that the two sets are the same, as they are meant to be here."""
    return [line for line in remarks if line.startswith("warning") and "learnt by heart" not in line]


def run(numbers, folder, config):
    whole = make(folder)
    model = Guess(whole)
    return [outcome(number, whole, model, folder, config) for number in numbers]


def test_the_whole_file_is_silent_and_its_reference_is_right(tmp_path, tiny_config):
    whole = make(tmp_path)
    (tmp_path / "set.json").write_text(json.dumps(whole))
    flags = [f"whole_{split}={tmp_path / 'set.json'}:{tmp_path}" for split in ("train", "val")]
    cfg, remarks = build_config(str(tiny_config), datasets=flags, output=str(tmp_path / "run"))
    assert not warnings(remarks)
    expected = average_precision(whole, Guess(whole))
    assert 20 < expected < 80
    assert evaluate(cfg, Guess(whole))["bbox"]["AP"] == pytest.approx(expected, abs=1e-4)


def test_some_edits(tmp_path, tiny_config):
    counts = Counter(kind for kind, _ in run(range(1000, 1016), tmp_path, tiny_config))
    assert set(counts) <= {"refused", "warned", "equal"}
    assert counts["refused"]
    assert counts["warned"] + counts["equal"]


@pytest.mark.slow
def test_two_hundred_edits(tmp_path, tiny_config, capsys):
    ends = run(range(200), tmp_path, tiny_config)
    counts = Counter(kind for kind, _ in ends)
    with capsys.disabled():
        sys.stdout.write(f"\n200 edits of a COCO file: {dict(counts)}\n")
    assert set(counts) == {"refused", "warned", "equal"}
    assert min(counts[kind] for kind in ("refused", "warned", "equal")) >= 10
