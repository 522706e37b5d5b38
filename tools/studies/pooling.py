"""Compare pooling bottlenecks with plain ones: small ResNet-26s on ten ImageNet classes.

The data are a tar file or folder with train/CLASS and val/CLASS.
"""

from studies import pretraining
from studies.engine import Study

TEXT = """# Pooling bottlenecks against plain ones on ten ImageNet classes

ResNet-26 (bottlenecks, 2 in each stage) from scratch on images of 64 x 64 pixels (1,300 training and 300 validation
images of 10 classes), 12 epochs of batch size 32, SGD with momentum 0.9, one epoch of warm-up and a cosine, the same
for every row: `resnet26_bn_small.yaml` and `resnet26_hybrid_small.yaml`. Top-1 accuracy on the validation images (a
percentage point is three images). Written by `python tools/study.py pooling table` from the JSON files in `pooling/`,
one a run; the runs by `python tools/study.py pooling run --data TAR`.

Hardware: {hardware}. Code: {commits} (`+`: with edits).
"""
METHODS = {
    "plain": "plain",
    "hybrid": "hybrid",
    "hybrid_ndpp": "hybrid, ND++ `fast`",
}
NDPP = ["ndpp={preset: fast, task: imagenet}"]


def words(method: str) -> tuple[str, list[str]]:
    """Return config name and settings of a method."""
    name = "resnet26_bn_small" if method == "plain" else "resnet26_hybrid_small"
    return name, NDPP if method == "hybrid_ndpp" else []


STUDY = Study(
    name="pooling",
    text=TEXT,
    methods=METHODS,
    command=pretraining.command_by_method(words),
    read=pretraining.read,
    steps=pretraining.steps_by_method(words),
    columns=pretraining.COLUMNS,
    rates=(0.1,),
    unit="epoch",
)
