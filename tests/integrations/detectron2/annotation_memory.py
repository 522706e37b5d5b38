"""How much memory annotations take in a rank and in each of its loader processes; prints JSON. Linux only.

IMAGES of seven objects with polygons of 24 corners, as in COCO (118,287 images): annotation_memory.py [IMAGES].
"""

import gc
import json
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
import numpy as np  # noqa: E402
import torch  # noqa: E402
from detectron2.config import get_cfg  # noqa: E402
from detectron2.data import DatasetCatalog, MetadataCatalog  # noqa: E402

from ndpp_dense.integrations.detectron2 import add_ndpp_config  # noqa: E402
from ndpp_dense.integrations.detectron2.loader import TrainData  # noqa: E402

IMAGES = int(sys.argv[1]) if len(sys.argv) > 1 else 20000
WORKERS = 2


def private(pid: int | str = "self") -> float:
    """Megabytes of a process that it shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def annotations() -> list[dict]:
    random = np.random.default_rng(0)
    objects = [
        {"bbox": random.random(4).tolist(), "bbox_mode": 0, "category_id": 0, "iscrowd": 0,
         "segmentation": [random.random(48).tolist()]}
        for _ in range(7 * IMAGES)
    ]  # fmt: skip
    sizes = {"height": 480, "width": 640}
    return [
        {"file_name": f"{i:012d}.jpg", "image_id": i, **sizes, "annotations": objects[7 * i : 7 * i + 7]}
        for i in range(IMAGES)
    ]


def mapped(record: dict) -> dict:
    """What a loader process does at its worst: every object that Python tracks is visited."""
    gc.collect()
    return {"memory": private(), "image": torch.zeros(1), "objects": len(record["annotations"])}


def main() -> None:
    cfg = add_ndpp_config(get_cfg())
    DatasetCatalog.register("made_up", annotations)
    MetadataCatalog.get("made_up").set(thing_classes=["thing"])
    cfg.DATASETS.TRAIN, cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS = ("made_up",), 2, WORKERS
    before = private()
    data = TrainData(cfg, mapped)
    gc.collect()
    rank = private() - before
    batches = data.batches(0)
    workers = [next(batches)[0]["memory"] for _ in range(3 * WORKERS)]
    print(json.dumps({"images": IMAGES, "rank": rank, "worker": max(workers)}))  # noqa: T201


if __name__ == "__main__":
    main()
