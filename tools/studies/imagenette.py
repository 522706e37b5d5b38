"""Compare ND++ with batch normalisation across batch sizes and learning rates: ResNet-18s on ten ImageNet classes.

The data are a tar file or folder with train/CLASS and val/CLASS.
"""

from studies import pretraining
from studies.engine import Study

EPOCHS = 12
TEXT = f"""# ND++ against batch normalisation on ten ImageNet classes

ResNet-18 from scratch on images of 64 x 64 pixels (1,300 training and 300 validation images of 10 classes), {EPOCHS}
epochs, SGD without momentum, learning rate 0.1 or 1.0 (ND++ at batch size 256 also 0.3) with one epoch of warm-up and a
cosine, weight decay 1e-4, the same for every row: `resnet18_{{{{bn,ndpp}}}}_small.yaml`. An epoch has 40 steps at batch
size 32, 5 at 256, 1 at 1024. Top-1 accuracy on the validation images (a percentage point is three images). Written by
`python tools/study.py imagenette table` from the JSON files in `imagenette/`, one a run; the runs by
`python tools/study.py imagenette run --data TAR`.

The running statistics of `fast` reach back as many images at every batch size (`WhiteningConfig.for_batch`); runs with
the momentum 0.1 of smaller batches are in the last table, and so are those with blocks of 64 channels (16 in 3x3
convolutions) and five iterations, the preset before. There is one seed where one value stands.

`paper` ends below `fast` at batch size 32, and above it at 256 (learning rate 1.0, an eighth of the steps). What parts
them there is neither the running average (`statistics=batch`) nor the gradient (`grad=detached`) but above all how
many channels of a 3x3 convolution are whitened together: some of the way back is gained with 16
(`block_size_spatial`), most with 32 or 64, which cost more ([performance](../performance.md)); on [nuclei](nuclei.md)
16 ended lower, on [CamVid](camvid.md) no higher. A learning rate of 0.3 gains as much for nothing. What parts `fast`
from batch norm at batch size 32 and learning rate 1.0 is how far it raises directions that hardly vary: `eps=1.0`
raises them less, and loses nothing at 0.1. Detectors and segmentors need them raised: there the same
setting ended lower ([nuclei](nuclei.md), [CamVid](camvid.md)), so the preset, which is one for pretraining and what
follows, keeps 0.1. Shared blocks do not train with so few iterations. Statistics may be updated more rarely than at
every step, but not much: see the rows with `ndpp.schedule`.

Hardware: {{hardware}}. Code: {{commits}} (`+`: with edits).
"""
METHODS = {"bn": "BN", "paper": "ND++ `paper`", "fast": "ND++ `fast`"}


def words(method: str) -> tuple[str, list[str]]:
    """Return config name and settings of a method."""
    name = "resnet18_bn_small" if method == "bn" else "resnet18_ndpp_small"
    preset = [] if method == "bn" else [f"ndpp.preset={method}"]
    return name, ["optimizer=momentum", "momentum=0", f"epochs={EPOCHS}", *preset]


STUDY = Study(
    name="imagenette",
    text=TEXT,
    methods=METHODS,
    command=pretraining.command_by_method(words),
    read=pretraining.read,
    steps=pretraining.steps_by_method(words),
    columns=pretraining.COLUMNS,
    rates=(0.1, 1.0),
    unit="epoch",
    conditions={f"batch {size}": [f"batch_size={size}"] for size in (32, 256, 1024)},
)
