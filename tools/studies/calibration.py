"""Compare fine-tuning a batch norm network with fine-tuning the ND++ network made from it: small ResNet-18s.

The data are a tar file with train/CLASS and val/CLASS of ten ImageNet classes.
"""

import subprocess
import sys
from pathlib import Path

from records import ROOT

from studies import pretraining
from studies.engine import Column, Study

EPOCHS = 4
TRUNK = ("conv1", "*.downsample.*", "fc")  # no shortcut goes around these
OPTIONS = " ".join(f"--no-scale {pattern}" for pattern in TRUNK)
TEXT = f"""# ND++ from batch norm weights

ResNet-18 with batch norms, trained on images of 64 x 64 pixels (1,300 training and 300 validation images of ten
ImageNet classes) by `resnet18_bn_small.yaml` for its 12 epochs at learning rate 0.1, is converted by
`ndpp convert --calibrate` on 640 training images. Then each trains {EPOCHS} epochs more at batch size 32,
with momentum 0.9 and a cosine from the learning rate of the row. "Before" is top-1 accuracy on the validation images as
converted (a percentage point is three images). `fast` had blocks of 64 channels (16 in 3x3 convolutions) and five
iterations. With local scale in every layer a network answers the same for an image at any contrast, which the one with
batch norms does not. "In branches" has it in the residual branches alone, whose shortcuts carry the contrast on
(`{OPTIONS}`).

Written by `python tools/study.py calibration table` from the JSON files in `calibration/`, one a run; the runs by
`python tools/study.py calibration run --data TAR`.

Hardware: {{hardware}}. Code: {{commits}} (`+`: with edits).
"""
METHODS = {
    "bn": "BN",
    "none": "ND++ `fast`, no local scale",
    "branches": "ND++ `fast`, local scale in branches",
    "l1": "ND++ `fast`",
}


def words(method: str) -> tuple[str, list[str]]:
    """Return config name and settings of a method."""
    if method == "bn":
        return "resnet18_bn_small", []
    if method == "branches":
        rules = ", ".join(f'"{pattern}": {{local_scale: none}}' for pattern in TRUNK)
        return "resnet18_ndpp_small", [f"ndpp.rules={{{rules}}}"]
    return "resnet18_ndpp_small", [f"ndpp.local_scale={method}"]


def work(*said: str) -> None:
    """Run a tool; what it prints is shown.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    subprocess.run([sys.executable, *said], check=True, cwd=ROOT)


def prepare(method: str, seed: int, data: Path, output: Path) -> None:
    """Train the batch norm network if there is none of the seed, convert it, and evaluate what came of it."""
    base = output.parent / f"base_seed{seed}"
    if not (base / "results.json").exists():
        work(*pretraining.command("resnet18_bn_small", [], 0.1, seed, data, base), "--resume")
    weights = output / "start.pth"
    source = str(base / "last.pth")
    if method == "bn":
        work("tools/convert_weights.py", source, str(weights), "--to", "timm", "--model", "resnet18")
    else:
        images = output.parent / "images"
        pretraining.unpack(data, images)
        scale = OPTIONS.split() if method == "branches" else ["--local-scale", method]
        shape = ["--image-size", "64", *scale, "--model", "resnet18"]
        work(
            "tools/convert_weights.py",
            source,
            str(weights),
            "--to",
            "timm",
            "--calibrate",
            str(images / "train"),
            *shape,
        )
    config, settings = words(method)
    evaluation = pretraining.command(config, [*settings, f"weights={weights}"], 0.1, seed, data, output)
    work(*evaluation, "--eval-only")


def command(method: str, settings: list[str], rate: float, seed: int, data: Path, output: Path) -> list[str]:
    """Return the words that train one combination from what :func:`prepare` left."""
    name, own = words(method)
    own = [*own, f"weights={output / 'start.pth'}", f"epochs={EPOCHS}", "warmup_epochs=0"]
    return pretraining.command(name, [*own, *settings], rate, seed, data, output)


def read(output: Path) -> tuple[dict[int, dict[str, float]], list[list[float]]]:
    """Return accuracy by epoch, before training as that of epoch 0, and training loss by epoch."""
    found, losses = pretraining.read(output)
    return pretraining.read_evaluation(output) | found, losses


STUDY = Study(
    name="calibration",
    text=TEXT,
    methods=METHODS,
    command=command,
    read=read,
    steps=pretraining.steps_by_method(words),
    columns=(Column("before", "top-1", 0.0), Column("after 1 epoch", "top-1", 1 / EPOCHS), Column("top-1", "top-1")),
    rates=(0.02, 0.1),
    unit="epoch",
    prepare=prepare,
)
