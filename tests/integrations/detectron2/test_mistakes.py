"""What a user can get wrong in a configuration ends in one line with code 2 that names the value."""

import os
from pathlib import Path

import pytest
import torch

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
        ("SOLVER.CHECKPOINT_PERIOD", 0, "SOLVER.CHECKPOINT_PERIOD is 0, it must be a whole number, at least 1"),
        ("SOLVER.LOG_PERIOD", 0, "SOLVER.LOG_PERIOD is 0, it must be a whole number, at least 1"),
        ("SOLVER.MAX_ITER", 0, "SOLVER.MAX_ITER is 0"),
        ("SOLVER.MAX_ITER", "abc", "override SOLVER.MAX_ITER abc: SOLVER.MAX_ITER must be a whole number, not a text"),
        ("SOLVER.IMS_PER_BATCH", 0, "SOLVER.IMS_PER_BATCH is 0"),
        ("SOLVER.ACCUMULATION_STEPS", 0, "SOLVER.ACCUMULATION_STEPS is 0"),
        ("SOLVER.BASE_LR", -1, "SOLVER.BASE_LR is -1.0, it must be a finite number, at least 0"),
        ("SOLVER.BASE_LR", "nan", "SOLVER.BASE_LR is nan"),
        ("SOLVER.MOMENTUM", "inf", "SOLVER.MOMENTUM is inf"),
        ("DATALOADER.NUM_WORKERS", -1, "DATALOADER.NUM_WORKERS is -1"),
        ("INPUT.MIN_SIZE_TRAIN", "()", "INPUT.MIN_SIZE_TRAIN is ()"),
        ("INPUT.MASK_FORMAT", "masks", "INPUT.MASK_FORMAT is 'masks', choose from polygon, bitmask"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", 0, "MODEL.ROI_HEADS.NUM_CLASSES is 0"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", 1, "NUM_CLASSES is 1 and data set 'tiny_train' has 2 categories"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", 80, "NUM_CLASSES is 80 and data set 'tiny_val' has 2 categories, set MODEL."),
        ("DATASETS.TRAIN", "()", "DATASETS.TRAIN is empty: name a set with --dataset NAME_train=JSON:IMAGES"),
        ("MODEL.DEVICE", "tpu", "MODEL.DEVICE is 'tpu', choose from cpu, cuda"),
        ("MODEL.META_ARCHITECTURE", "Nope", "MODEL.META_ARCHITECTURE is 'Nope', choose from GeneralizedRCNN"),
        ("MODEL.FPN.NORM", "Nope", "KeyError: 'Nope' (detectron2/layers/batch_norm.py"),
        ("MODEL.FPN.NORM", "Nope", "the value of MODEL.FPN.NORM"),
        ("MODEL.RESNETS.DEPTH", 77, "the value of MODEL.RESNETS.DEPTH"),
        ("MODEL.RPN.IOU_THRESHOLDS", "[0.7, 0.3]", "AssertionError"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", "[[8], [16]]", "Got sizes of length 2 in anchor generator"),
        ("SOLVER.LR_SCHEDULER_NAME", "Nope", "Unknown LR scheduler: Nope"),
        ("MODEL.NDPP.SCALE_STEPS", -3, "WhiteningConfig got invalid values: scale_steps = -3 (a whole number >= 0)"),
        ("MODEL.NDPP.PRESET", "fasst", "MODEL.NDPP: Unknown preset 'fasst'. Did you mean 'fast'?"),
        ("SOLVER.BASE_LT", 1, "no configuration key 'SOLVER.BASE_LT'. The nearest: SOLVER.BASE_LR"),
    ],
)
def test_a_wrong_value(train, key, value, message):
    nd = ("MODEL.META_ARCHITECTURE", "NDPPModel") if "NDPP" in key else ()
    assert message in train(*nd, key, value)


def test_steps_that_are_never_reached_are_said_not_to_count():
    from detectron2.config import get_cfg

    from ndpp_dense.integrations.detectron2.setting_checks import unusual_settings

    cfg = get_cfg()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = 100, (60, 80)
    assert unusual_settings(cfg) == []
    cfg.SOLVER.STEPS = (60, 80000)
    (line,) = unusual_settings(cfg)
    assert "80000 are not reached by SOLVER.MAX_ITER 100, so the learning rate is lowered 1 times in place of 2" in line
    cfg.SOLVER.STEPS = (60000, 80000)
    (line,) = unusual_settings(cfg)
    assert 'never lowered. Give steps below it, such as SOLVER.STEPS "(75,)", or () for none' in line
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"
    assert unusual_settings(cfg) == []


OUT_OF_RANGE = [
    ("MODEL.ANCHOR_GENERATOR.SIZES", "[[0]]", "SIZES is [[0]], it must be a list, each entry a finite number, above"),
    ("MODEL.ANCHOR_GENERATOR.SIZES", "[[8], [-3]]", "SIZES is [[8], [-3]]"),
    ("MODEL.ANCHOR_GENERATOR.SIZES", "[[], [8]]", "SIZES is [[], [8]]"),
    ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[[]]", "ASPECT_RATIOS is [[]]"),
    ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[[0.5, 0.0]]", "ASPECT_RATIOS is [[0.5, 0.0]]"),
    ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 5, "SCORE_THRESH_TEST is 5.0, it must be a finite number, from 0 to 1"),
    ("MODEL.ROI_HEADS.NMS_THRESH_TEST", -1, "NMS_THRESH_TEST is -1.0"),
    ("MODEL.ROI_HEADS.POSITIVE_FRACTION", 0, "POSITIVE_FRACTION is 0.0, it must be a finite number, above 0 and at"),
    ("MODEL.PIXEL_STD", "[1.0, 0.0, 1.0]", "MODEL.PIXEL_STD is [1.0, 0.0, 1.0]"),
    ("MODEL.RPN.IOU_LABELS", "[0, 7, 1]", "MODEL.RPN.IOU_LABELS is [0, 7, 1]"),
    ("SOLVER.MOMENTUM", 2, "SOLVER.MOMENTUM is 2.0, it must be a finite number, at least 0 and below 1"),
    ("SOLVER.WEIGHT_DECAY", -1, "SOLVER.WEIGHT_DECAY is -1.0"),
    ("SOLVER.WEIGHT_DECAY_BIAS", -1.0, "SOLVER.WEIGHT_DECAY_BIAS is -1.0"),
    ("SOLVER.GAMMA", 0, "SOLVER.GAMMA is 0.0"),
    ("INPUT.CROP.SIZE", "[2.0, 2.0]", "with relative_range it must be shares from 0 to 1"),
    ("SEED", 2**40, "SEED is 1099511627776, it must be a whole number, at most 2147483648"),
]


def test_numbers_out_of_range_are_told_together(train):
    rounds: list[dict] = [{}, {}, {}]
    for key, value, message in OUT_OF_RANGE:
        next(words for words in rounds if key not in words)[key] = (value, message)
    for words in rounds:
        said = train(*(word for key, (value, _) in words.items() for word in (key, value)))
        assert [message for _, message in words.values() if message not in said] == []


def test_numbers_that_no_counter_or_memory_holds():
    from detectron2.config import get_cfg

    from ndpp_dense.integrations.detectron2 import add_ndpp_config
    from ndpp_dense.integrations.detectron2.setting_checks import check_settings

    cfg = add_ndpp_config(get_cfg())
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH = 10**30, 10**12
    with pytest.raises(ValueError, match="must be a whole number, at least 1, and at most 2147483648") as error:
        check_settings(cfg)
    assert "SOLVER.IMS_PER_BATCH is 1000000000000, it must be a whole number, from 1 to 65536" in str(error.value)


def test_every_number_has_a_range():
    from detectron2.config import get_cfg

    from ndpp_dense.integrations.detectron2 import add_ndpp_config
    from ndpp_dense.integrations.detectron2.run_config import flat_settings
    from ndpp_dense.integrations.detectron2.setting_checks import check_settings
    from ndpp_dense.integrations.detectron2.setting_ranges import RANGES

    cfg = add_ndpp_config(get_cfg())
    numbers = [key for key, value in flat_settings(cfg).items() if isinstance(_first(value), int | float)]
    assert set(numbers) - RANGES.keys() == set()
    assert RANGES.keys() - set(flat_settings(cfg)) == set()
    check_settings(cfg)  # Detectron2's own are right


def _first(value):
    while isinstance(value, list | tuple):
        value = value[0] if value else ""
    return "" if isinstance(value, bool) else value


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ("RetinaNet", "MODEL.RETINANET.NUM_CLASSES is 7 and data set 'tiny_train' has 2 categories"),
        ("PanopticFPN", "MODEL.SEM_SEG_HEAD.NUM_CLASSES is 9 and data set 'tiny_train' has 3 kinds"),
        ("SemanticSegmentor", "MODEL.SEM_SEG_HEAD.NUM_CLASSES is 9"),
        ("GeneralizedRCNN", "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is 17 and data set 'tiny_train' has 3 keypoints"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_classes_of_every_architecture(build_tiny, architecture, words, wrapped):
    from detectron2.data import MetadataCatalog

    from ndpp_dense.integrations.detectron2.class_checks import class_faults

    cfg = build_tiny().clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = "NDPPModel" if wrapped else architecture
    cfg.MODEL.NDPP.META_ARCHITECTURE = architecture
    assert list(class_faults(cfg)) == []
    cfg.MODEL.RETINANET.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.KEYPOINT_ON = 7, 9, True
    MetadataCatalog.get("tiny_train").set(stuff_classes=["a", "b", "c"], keypoint_names=["x", "y", "z"])
    assert words in "; ".join(class_faults(cfg))


def test_the_number_of_classes_follows_the_data_for_every_architecture(build_tiny):
    cfg = build_tiny("MODEL.META_ARCHITECTURE", "RetinaNet")
    assert cfg.MODEL.RETINANET.NUM_CLASSES == cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2


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
    "twice.yaml": (
        "SOLVER: {BASE_LR: 0.1}\nSOLVER: {MAX_ITER: 3}\n",
        "twice.yaml, line 2: it is not YAML: the key 'SOLVER'",
    ),
    "deep.yaml": (
        "SOLVER:\n  BASE_LR: 0.1\n  BASE_LR: 0.5\n",
        "line 3: it is not YAML: the key 'BASE_LR' stands twice",
    ),
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


@pytest.mark.parametrize("weights", [{"w": 1}, {"proposal_generator.rpn_head.conv.weight": 3}])
def test_weights_of_which_none_fits_are_refused(train, tmp_path, weights):
    torch.save({"model": {name: torch.zeros(size) for name, size in weights.items()}}, tmp_path / "other.pth")
    said = train("--weights", "other.pth", "--output", "run")
    assert "none of the " in said
    assert f"the file begins with {next(iter(weights))}, the model with backbone" in said


@pytest.mark.parametrize("name", ["bad.pth", "bad.safetensors", "bad.pkl", "empty.pth"])
def test_damaged_weights(train, name, tmp_path):
    (tmp_path / name).write_bytes(b"" if name.startswith("empty") else b"junk" * 10)
    assert f"cannot read checkpoint {name}" in train("--weights", name)
