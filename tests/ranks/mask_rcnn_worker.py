"""Mask R-CNN on images of unequal sizes, most without objects; losses of 20 steps. See splits.py."""

import importlib.util
import json
import logging
import os
import warnings
from pathlib import Path

from splits import run_splits

warnings.filterwarnings("ignore")
import detectron2.utils.comm as comm  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torchvision.ops import boxes as box_ops  # noqa: E402

from ndpp_dense.integrations.detectron2 import calibration  # noqa: E402
from ndpp_dense.integrations.detectron2 import trainer as training  # noqa: E402
from ndpp_dense.integrations.detectron2.run_config import build_config  # noqa: E402

CONFTEST = Path(__file__).parents[1] / "integrations" / "detectron2" / "conftest.py"
STEPS = int(os.environ.get("NDPP_TEST_STEPS", "20"))
OBJECTS = 4  # so many of nine images keep theirs
WORDS = {
    "MODEL.META_ARCHITECTURE": "NDPPModel",
    "MODEL.NDPP.VERIFY": False,
    "SOLVER.IMS_PER_BATCH": 8,
    "SOLVER.MAX_ITER": STEPS,
    "SOLVER.STEPS": "()",
    "SOLVER.MEAN_OVER_ALL_REGIONS": os.environ.get("NDPP_TEST_MEAN", "True"),
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": False,
    # Every anchor and every proposal is taken: which ones are drawn otherwise depends on the rank.
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 4096,
    "MODEL.RPN.POSITIVE_FRACTION": 1.0,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 512,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 1.0,
}


def in_double(cfg, build=calibration.build_model):
    return build(cfg).double()


def suppress_in_double(boxes, scores, groups, threshold, suppress=box_ops.batched_nms):
    """Detectron2 makes the boxes float32, but not the scores."""
    return suppress(boxes.double(), scores.double(), groups, threshold)


calibration.build_model = in_double
box_ops.batched_nms = suppress_in_double


def make_data(folder):
    """Write the set once; another process may have done so."""
    spec = importlib.util.spec_from_file_location("tiny", CONFTEST)
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    file = folder / "train" / "coco.json"
    if not file.exists():
        (folder / "tiny.yaml").write_text(tiny.CONFIG)
        tiny.make_coco(folder / "train", 9)
        content = json.loads(file.read_text())
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] < OBJECTS]
        file.write_text(json.dumps(content))
    return f"tiny_train={file}:{folder / 'train'}"


def train(folder):
    words = [str(word) for pair in WORDS.items() for word in pair]
    torch.manual_seed(0)
    flag = make_data.flag
    cfg, _ = build_config(str(folder.parent / "tiny.yaml"), datasets=[flag], output=str(folder), overrides=words)
    cfg.defrost()
    cfg.DATASETS.TEST = ()
    cfg.freeze()
    run = training.NDTrainer(cfg)
    # Detectron2 pads a rank's images to its own largest; here all are padded alike.
    run.net.backbone._size_divisibility = 96
    losses, empty = [], 0
    forward = run._forward

    def counted(model, batch):
        nonlocal empty
        empty += all(len(sample["instances"]) == 0 for sample in batch)
        return forward(model, batch)

    run._forward = counted
    put = training._mean_over_ranks

    def recorded(values):
        found = put(values)
        losses.append(sum(found[0].values()))
        return found

    training._mean_over_ranks = recorded
    run._hooks = [hook for hook in run._hooks if "Checkpoint" not in type(hook).__name__]
    run.train()
    if comm.get_world_size() > 1:
        total = torch.tensor(float(empty))
        dist.all_reduce(total)
        empty = int(total)
    return {"losses": losses, "empty": empty}


if __name__ == "__main__":
    import sys

    logging.disable(logging.INFO)
    os.makedirs(sys.argv[1], exist_ok=True)
    make_data.flag = make_data(Path(sys.argv[1]))
    run_splits(train)
