"""What a user can get wrong in a configuration ends in one line with code 2 that names the value."""

import os
from pathlib import Path

import pytest

from ndpp_dense.cli import main

pytestmark = pytest.mark.detectron2


@pytest.fixture
def train(tiny_config, tiny_coco, tmp_path, monkeypatch, capsys):
    """Returns a function that runs `ndpp train-det` in this process and returns what it says at its end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NDPP_DEBUG", raising=False)

    def run(*words, config=tiny_config):
        flags = [word for flag in tiny_coco for word in ("--dataset", flag)]
        code = main(["train-det", "--config", str(config), *flags, "--device", "cpu", *map(str, words)])
        said = capsys.readouterr()
        assert code == 2, said.err[-2000:]
        assert "Traceback" not in said.out + said.err
        return said.err.rsplit("error: ", 1)[-1]

    return run


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SOLVER.CHECKPOINT_PERIOD", 0, "SOLVER.CHECKPOINT_PERIOD is 0, it must be at least 1"),
        ("SOLVER.LOG_PERIOD", 0, "SOLVER.LOG_PERIOD is 0, it must be at least 1"),
        ("SOLVER.MAX_ITER", 0, "SOLVER.MAX_ITER is 0"),
        ("SOLVER.MAX_ITER", "abc", "override SOLVER.MAX_ITER abc: SOLVER.MAX_ITER must be a whole number, not a text"),
        ("SOLVER.IMS_PER_BATCH", 0, "SOLVER.IMS_PER_BATCH is 0"),
        ("SOLVER.ACCUMULATION_STEPS", 0, "SOLVER.ACCUMULATION_STEPS is 0"),
        ("SOLVER.BASE_LR", -1, "SOLVER.BASE_LR is -1.0, it must be 0 or more, and finite"),
        ("SOLVER.BASE_LR", "nan", "SOLVER.BASE_LR is nan"),
        ("SOLVER.MOMENTUM", "inf", "SOLVER.MOMENTUM is inf"),
        ("DATALOADER.NUM_WORKERS", -1, "DATALOADER.NUM_WORKERS is -1"),
        ("INPUT.MIN_SIZE_TRAIN", "()", "INPUT.MIN_SIZE_TRAIN is ()"),
        ("INPUT.MASK_FORMAT", "masks", "INPUT.MASK_FORMAT is 'masks', choose from polygon, bitmask"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", 0, "MODEL.ROI_HEADS.NUM_CLASSES is 0"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", 1, "NUM_CLASSES is 1 and data set 'tiny_train' has 2 categories"),
        ("DATASETS.TRAIN", "()", "DATASETS.TRAIN is empty: name a set with --dataset NAME_train=JSON:IMAGES"),
        ("MODEL.DEVICE", "tpu", "MODEL.DEVICE is 'tpu', choose from cpu, cuda"),
        ("MODEL.META_ARCHITECTURE", "Nope", "MODEL.META_ARCHITECTURE is 'Nope', choose from GeneralizedRCNN"),
        ("MODEL.FPN.NORM", "Nope", "KeyError: 'Nope' (detectron2/layers/batch_norm.py"),
        ("MODEL.FPN.NORM", "Nope", "the value of MODEL.FPN.NORM"),
        ("MODEL.RESNETS.DEPTH", 77, "the value of MODEL.RESNETS.DEPTH"),
        ("MODEL.RPN.IOU_THRESHOLDS", "[0.7, 0.3]", "AssertionError"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", "[[8], [16]]", "Got sizes of length 2 in anchor generator"),
        ("SOLVER.LR_SCHEDULER_NAME", "Nope", "Unknown LR scheduler: Nope"),
        ("SOLVER.BASE_LT", 1, "no configuration key 'SOLVER.BASE_LT'. The nearest: SOLVER.BASE_LR"),
    ],
)
def test_a_wrong_value(train, key, value, message):
    assert message in train(key, value)


def test_a_whole_number_is_a_number(train):
    assert "SOLVER.MAX_ITER is 0" in train("SOLVER.BASE_LR", 1, "SOLVER.MAX_ITER", 0)


def test_nothing_is_evaluated_with_random_weights(train):
    assert "nothing to evaluate: the weights are random" in train("--eval-only")
    assert "which has none" in train("--eval-only", "--resume")


CONFIGS = {
    "list.yaml": ("- a\n- b\n", "list.yaml holds a list; it must hold 'SECTION: {KEY: value}' lines"),
    "text.yaml": ("hello\n", "holds a str"),
    "empty.yaml": ("", "holds nothing"),
    "self.yaml": ("_BASE_: self.yaml\n", "builds on itself through _BASE_: self.yaml -> self.yaml"),
    "one.yaml": ("_BASE_: two.yaml\n", "builds on itself through _BASE_: one.yaml -> two.yaml -> one.yaml"),
    "orphan.yaml": ("_BASE_: gone.yaml\n", "_BASE_ names gone.yaml, and there is no such file"),
    "piped.yaml": ("_BASE_: pipe.yaml\n", "_BASE_ names pipe.yaml, and there is no such file"),
    "broken.yaml": ("MODEL: {A: [\n", "broken.yaml, line 2"),
    "scalar.yaml": ("MODEL: 3\n", "scalar.yaml"),
    "nothing.yaml": ("SOLVER:\n", "SOLVER must be a section of keys, not nothing"),
    "type.yaml": ("SOLVER: {MAX_ITER: many}\n", "SOLVER.MAX_ITER must be a whole number, not a text"),
    "key.yaml": ("SOLVER: {MAX_ITERS: 3}\n", "no configuration key 'SOLVER.MAX_ITERS'. The nearest: SOLVER.MAX_ITER"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_wrong_config(train, name, tmp_path):
    for file, (content, _) in CONFIGS.items():
        (tmp_path / file).write_text(content)
    (tmp_path / "two.yaml").write_text("_BASE_: one.yaml\n")
    os.mkfifo(tmp_path / "pipe.yaml")
    assert CONFIGS[name][1] in train(config=Path(name))


@pytest.mark.parametrize("name", ["pipe.yaml", "pipe.pth", "pipe.safetensors", "pipe.pkl"])
def test_a_pipe_is_no_file(train, name, tmp_path, tiny_config):
    os.mkfifo(tmp_path / name)
    if name.endswith(".yaml"):
        assert "it is a pipe or a device, not a file" in train(config=name)
    else:
        assert name in train("--weights", name)


@pytest.mark.parametrize("name", ["bad.pth", "bad.safetensors", "bad.pkl", "empty.pth"])
def test_damaged_weights(train, name, tmp_path):
    (tmp_path / name).write_bytes(b"" if name.startswith("empty") else b"junk" * 10)
    assert f"cannot read checkpoint {name}" in train("--weights", name)
