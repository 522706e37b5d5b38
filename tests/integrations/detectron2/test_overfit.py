"""The shipped COCO config learns real COCO images by heart."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.detectron2, pytest.mark.slow, pytest.mark.timeout(2400)]
ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("NDPP_TEST_DATA", ROOT.parent / "shared" / "data")) / "coco_mini"
IMAGES, ITERATIONS = 8, 240
OVERRIDES = {
    "INPUT.MIN_SIZE_TRAIN": "(160,)",
    "INPUT.MAX_SIZE_TRAIN": 224,
    "INPUT.MIN_SIZE_TEST": 160,
    "INPUT.MAX_SIZE_TEST": 224,
    "INPUT.RANDOM_FLIP": "none",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 32,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.BASE_LR": 0.02,
    "SOLVER.WARMUP_ITERS": 20,
    "SOLVER.MAX_ITER": ITERATIONS,
    "SOLVER.STEPS": "(210,)",
    "SOLVER.LOG_PERIOD": 4,
    "TEST.EVAL_PERIOD": 0,
    "DATALOADER.NUM_WORKERS": 0,
}


@pytest.fixture
def eight_images(tmp_path):
    """Write the annotations of the first eight images with four objects at most."""
    coco = json.loads((DATA / "annotations" / "train.json").read_text())
    per_image: dict[int, list] = {}
    for annotation in coco["annotations"]:
        per_image.setdefault(annotation["image_id"], []).append(annotation)
    chosen = [image for image in coco["images"] if 0 < len(per_image.get(image["id"], [])) <= 4][:IMAGES]
    coco["images"] = chosen
    coco["annotations"] = [annotation for image in chosen for annotation in per_image[image["id"]]]
    file = tmp_path / "eight.json"
    file.write_text(json.dumps(coco))
    return file


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the data set coco_mini is not there ({DATA})")
def test_overfits_eight_images_and_evaluates_80_categories(eight_images, tmp_path):
    output = tmp_path / "run"
    command = [sys.executable, str(ROOT / "tools" / "train_net.py"), "--config", "mask_rcnn_ndpp.yaml"]
    command += ["--dataset", f"eight_train={eight_images}:{DATA / 'images' / 'train'}"]
    command += ["--dataset", f"mini_val={DATA / 'annotations' / 'val.json'}:{DATA / 'images' / 'val'}"]
    command += ["--device", "cpu", "--output", str(output)]
    command += [str(word) for pair in OVERRIDES.items() for word in pair]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "80 categories" in done.stdout
    metrics = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    losses = [m["total_loss"] for m in metrics if "total_loss" in m]
    first, last = losses[0], statistics.mean(losses[-5:])
    assert last < 0.2 * first, f"loss {first:.2f} -> {last:.2f}"
    results = json.loads((output / "results.json").read_text())
    assert len([name for name in results["segm"] if name.startswith("AP-")]) == 80
