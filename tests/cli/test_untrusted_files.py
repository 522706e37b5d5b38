"""Every command, given files that would leave a mark if anything in them ran: each ends in one line and code 2."""

import hashlib
import json
import os
import pickle
import shutil

import exploits
import numpy as np
import pytest
import torch
from PIL import Image

from ndpp_dense.cli import main
from ndpp_dense.datasets.streets import ensure_streets
from ndpp_dense.zoo import ZooFile, ZooIndex, ZooModel
from ndpp_dense.zoo.index import content_digest, write_index

SIDE = 64
SIZES = ["image_size=32", "batch_size=2", "workers=0", "epochs=1", "stats_batches=1", "warmup_epochs=0"]
D2 = ["--config", "mask_rcnn_ndpp_demo", "--device", "cpu", "--output", "{out}"]
D2 += ["--dataset", "toy_train={data}/toys.json:{data}/val/a", "--dataset", "toy_val={data}/toys.json:{data}/val/a"]
SEG = ["--config", "deeplabv3_ndpp_demo"]
TRAIN_SEG = ["train-seg", *SEG, "--work-dir", "{out}", "--dataset", "{streets}"]
SMALL = [
    "model.backbone.stem_channels=8", "model.backbone.base_channels=8", "model.decode_head.in_channels=64",
    "model.decode_head.channels=16", "model.auxiliary_head.in_channels=32", "model.auxiliary_head.channels=8",
]  # fmt: skip
IMAGES = ["--config", "resnet18_ndpp_small", "--data", "{data}"]
# By framework, command lines that read {file}.
COMMANDS = {
    "detectron2": [
        ["train-det", *D2, "--eval-only", "--weights", "{file}"],
        ["train-det", *D2, "MODEL.WEIGHTS", "{file}"],
        ["shift", *D2, "--weights", "{file}", "--shifts", "1,2"],
    ],
    "mmengine": [
        [*TRAIN_SEG, "--eval-only", "--weights", "{file}", "--cfg-options", *SMALL],
        [*TRAIN_SEG, "--cfg-options", *SMALL, "load_from={file}"],
        [*TRAIN_SEG, "--cfg-options", *SMALL, "model.backbone.init_cfg.type=Pretrained"]
        + ["model.backbone.init_cfg.checkpoint={file}"],
        ["shift", *SEG, "--device", "cpu", "--output", "{out}", "--weights", "{file}", "--shifts", "1,2", *SMALL]
        + ["--data", "{streets}"],
        ["export", *SEG, "--checkpoint", "{file}", "--output", "{out}/a.onnx"],
    ],
    "timm": [
        ["pretrain", *IMAGES, "--device", "cpu", "--output", "{out}", "--eval-only", "--weights", "{file}", *SIZES],
        ["pretrain", *IMAGES, "--device", "cpu", "--output", "{out}", *SIZES, "weights={file}"],
        ["shift", *IMAGES, "--device", "cpu", "--output", "{out}", "--weights", "{file}", "--shifts", "1,2"],
        ["shift", "--model", "resnet18", *IMAGES[2:], "--device", "cpu", "--weights", "{file}", "--shifts", "1,2"],
        ["perceptual", "--data", "{data}/val/a", "--model", "resnet18", "--weights", "{file}", "--device", "cpu"]
        + ["--size", "64", "--opinions", "generated"],
    ],
    "": [
        ["convert", "{file}", "{out}/a.pth", "--to", "detectron2"],
        ["zoo", "publish", "{file}", "--config", "resnet18_ndpp_small", "--task", "x", "--data", "x", "--budget", "x"]
        + ["--licence", "x", "--command", "x"],
    ],
}  # fmt: skip
CASES = [pytest.param(f, c, id=f"{' '.join(c[:1])}-{n}") for f, cs in COMMANDS.items() for n, c in enumerate(cs)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Small data, made once: an ImageNet tree whose images are a COCO set too."""
    home, draw = tmp_path_factory.mktemp("home"), np.random.default_rng(0)
    for part in ("train/a", "train/b", "val/a", "val/b"):
        folder = home / "data" / part
        folder.mkdir(parents=True)
        for number in range(2):
            Image.fromarray(draw.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(folder / f"{number}.png")
    square = {"category_id": 1, "iscrowd": 0, "area": 100, "bbox": [2, 2, 10, 10]}
    square["segmentation"] = [[2, 2, 12, 2, 12, 12, 2, 12]]
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": SIDE, "height": SIDE} for n in range(2)],
        "annotations": [{"id": n + 1, "image_id": n, **square} for n in range(2)],
        "categories": [{"id": 1, "name": "square"}],
    }
    (home / "data" / "toys.json").write_text(json.dumps(content))
    return home


@pytest.fixture
def run(home, tmp_path, monkeypatch, capsys):
    """Runs a command in an empty folder; returns what it said, once it has ended with code 2 and left no mark."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NDPP_HOME", str(home))
    monkeypatch.delenv("NDPP_DEBUG", raising=False)

    def command(words, file):
        places = {"file": file, "out": tmp_path / "out", "data": home / "data"}
        if "{streets}" in words:
            places["streets"] = ensure_streets(home / "small", num_train=2, num_val=1, height=48)
        code = main([word.format(**places) for word in words])
        said = capsys.readouterr().err
        assert not (tmp_path / "mark").exists(), "code from the file ran"
        assert code == 2, said
        line = said.strip().splitlines()[-1]
        assert line.startswith("error: ")
        return line

    return command


def needs(framework):
    for module in {"mmengine": ["mmengine", "mmseg"]}.get(framework, [framework] * bool(framework)):
        pytest.importorskip(module, reason=f"{module} is not installed")


@pytest.mark.parametrize(("framework", "words"), CASES)
def test_no_weights_run_code(run, tmp_path, framework, words):
    needs(framework)
    pickles = framework in ("detectron2", "")
    file = (exploits.pickled if pickles else exploits.saved)(
        tmp_path / "mark", tmp_path / f"a.{'pkl' * pickles or 'pth'}"
    )
    line = run(words, file)
    assert str(file) in line
    assert "it asks for " in line


KINDS = ["pipe", "folder", "safetensors"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("framework", "words"), [case for case in CASES if case.id in ("train-det-0", "convert-0")])
def test_what_is_no_file_of_weights_ends_at_once(run, tmp_path, framework, words, kind):
    needs(framework)
    file = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pth")
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.write_bytes(b"\x10" + b"\0" * 7 + b"not a header at all")
    assert str(file) in run(words, file)


@pytest.mark.parametrize(
    ("framework", "words", "names"),
    [
        ("detectron2", ["train-det", *D2, "--resume"], ["model_0000001.pth"]),
        ("mmengine", [*TRAIN_SEG, "--resume", "--cfg-options", *SMALL], ["iter_1.pth", "epoch_2.pth"]),
        ("timm", ["pretrain", *IMAGES, "--device", "cpu", "--output", "{out}", "--resume", *SIZES], ["last.pth"]),
    ],
    ids=["train-det", "train-seg", "pretrain"],
)
def test_no_run_that_is_resumed_runs_code(run, tmp_path, framework, words, names):
    needs(framework)
    (tmp_path / "out").mkdir()
    for name in names:
        exploits.saved(tmp_path / "mark", tmp_path / "out" / name)
    (tmp_path / "out" / "last_checkpoint").write_text(str(tmp_path / "out" / names[0]))
    assert "it asks for " in run(words, "")


@pytest.mark.parametrize("where", ["", "base"])
@pytest.mark.parametrize(
    ("framework", "words", "base"),
    [
        ("detectron2", ["train-det", "--device", "cpu", "--output", "{out}", "--config", "{file}"], "_BASE_"),
        ("mmengine", ["train-seg", "--work-dir", "{out}", "--config", "{file}"], "_base_"),
        ("timm", ["pretrain", "--data", "{data}", "--device", "cpu", "--config", "{file}"], "_base_"),
    ],
    ids=["train-det", "train-seg", "pretrain"],
)
def test_no_yaml_runs_code(run, tmp_path, framework, words, base, where):
    needs(framework)
    hostile = tmp_path / "hostile.yaml"
    hostile.write_text(f"# a comment\nname: !!python/object/apply:os.mkdir ['{tmp_path / 'mark'}']\n")
    file = hostile
    if where:
        file = tmp_path / "config.yaml"
        file.write_text(f"{base}: hostile.yaml\n")
    line = run(words, file)
    assert "line 2: the tag !!python/object/apply:os.mkdir is refused" in line
    assert ".yaml" in line


def test_no_proposals_run_code(run, tmp_path):
    needs("detectron2")
    file = tmp_path / "proposals.pkl"
    file.write_bytes(pickle.dumps({"ids": exploits.Marks(tmp_path / "mark")}, protocol=2))
    words = ["MODEL.LOAD_PROPOSALS", "True", "DATASETS.PROPOSAL_FILES_TRAIN", "('{file}',)"]
    assert "it asks for" in run(["train-det", *D2, *words], file)


@pytest.mark.parametrize(
    "command", [["infer", "{data}/val/a", "--weights", "here"], ["zoo", "verify", "here"]], ids=" ".join
)
@pytest.mark.parametrize(("framework", "config"), [("detectron2", D2[1]), ("mmseg", SEG[1]), ("timm", IMAGES[1])])
def test_no_weights_of_a_hostile_index_run_code(run, tmp_path, monkeypatch, framework, config, command):
    needs("mmengine" if framework == "mmseg" else framework)
    if (command[0], framework) == ("infer", "timm"):
        command = ["shift", "--weights", "ndpp://here", "--data", "{data}", "--device", "cpu", "--shifts", "1,2"]
    file = exploits.saved(tmp_path / "mark", tmp_path / "here-1.pth")
    data = file.read_bytes()
    entry = ZooFile(file.name, hashlib.sha256(data).hexdigest(), len(data), "pth")
    row = ZooModel("here", 1, "x", framework, config, "generated", "x", "MIT", "x", files=(entry,), classes=("a", "b"))
    index = ZooIndex(tmp_path / "zoo" / "index.json", (), {"here": row})
    write_index(index)
    (tmp_path / "zoo" / "checkpoints").mkdir()
    shutil.copy(file, tmp_path / "zoo" / "checkpoints" / file.name)
    monkeypatch.setenv("NDPP_ZOO_INDEX", str(index.path))
    assert "it asks for" in run(command, "")


def test_no_overrides_of_a_hostile_index_run_code(run, tmp_path, monkeypatch):
    row = ZooModel("here", 1, "x", "mmseg", SEG[1], "generated", "x", "MIT", "x")
    index = ZooIndex(tmp_path / "zoo" / "index.json", (), {"here": row})
    write_index(index)
    content = json.loads(index.path.read_text())
    mark = f"[{{'type':'os.mkdir','path':'{tmp_path / 'mark'}'}}]"
    for word in (f"model.decode_head={mark}", "model.ndpp.architecture=os.mkdir", f"custom_hooks={mark}"):
        content["models"][0]["overrides"] = [word]
        content["digest"] = content_digest(content)
        index.path.write_text(json.dumps(content))
        monkeypatch.setenv("NDPP_ZOO_INDEX", str(index.path))
        assert "the override" in run(["infer", "{data}/val/a", "--weights", "here"], "")


def test_weights_with_nan_are_warned_of(tmp_path, caplog):
    from ndpp_dense.weights.files import read_checkpoint

    weights = {f"layer{n}.weight": torch.full((2,), torch.nan if n else 1.0) for n in range(6)}
    torch.save({"model": {**weights, "steps": torch.tensor(3)}}, tmp_path / "a.pth")
    read_checkpoint(tmp_path / "a.pth")
    (record,) = caplog.records
    wanted = "5 of 7 hold NaN or infinity (layer1.weight, layer2.weight, layer3.weight, ...)"
    assert wanted in record.getMessage()
