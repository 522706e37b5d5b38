"""Configs build on each other; what is misspelt is named."""

from pathlib import Path

import pytest
import torch
import yaml

from ndpp_dense.backbones import list_backbones
from ndpp_dense.config_files import config_folders
from ndpp_dense.conversion.options import read_options
from ndpp_dense.layers import WhiteningConfig
from ndpp_dense.pretrain.config_loading import load_config
from ndpp_dense.pretrain.optimization import build_optimizer, build_schedule

CONFIGS = sorted((config_folders()[-1] / "imagenet").glob("*.yaml"))
BATCHES = {"bs256": 256, "bs2048": 2048, "lr1": 256, "paper": 256, "step": 256, "long": 512, "small": 32}


@pytest.fixture
def write(tmp_path):
    def to_file(name, text):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return to_file


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_complete(path):
    config, found = load_config(path.stem)
    assert found == path
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 25
    assert config.name in list_backbones()
    assert path.stem.startswith(config.name)
    assert config.batch_size == BATCHES[path.stem.rsplit("_", 1)[-1]]
    assert (config.ndpp is not None) == ("ndpp" in path.stem)
    if config.ndpp is not None:
        whitening = read_options(config.ndpp, "coco").config
        wanted = WhiteningConfig.paper if path.stem.endswith("paper") else WhiteningConfig.fast
        assert whitening == wanted("imagenet")
    optimizer = build_optimizer(config, torch.nn.Linear(1, 1))
    schedule = build_schedule(config, optimizer, 10)
    schedule.step_update(config.warmup_epochs * 10)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(config.lr, rel=0.05)
    schedule.step_update(config.epochs * 10 - 1)
    assert optimizer.param_groups[0]["lr"] < 0.02 * config.lr


def test_learning_rates_scale_with_the_batch():
    for kind in ("bn", "ndpp"):
        small, large = (load_config(f"resnet50_{kind}_bs{batch}")[0] for batch in (256, 2048))
        assert large.lr / small.lr == pytest.approx(large.batch_size / small.batch_size)
    for kind in ("bn", "ndpp"):
        config = load_config(f"resnet50_{kind}_lr1")[0]
        assert (config.lr, config.momentum) == (1.0, 0.0)


def test_mappings_are_merged_and_values_replaced(write):
    write("base.yaml", "lr: 0.5\nepochs: 3\nndpp: {preset: paper, eps: 0.5}\n")
    path = write("leaf.yaml", "_base_: base.yaml\nlr: 1e-2\nndpp: {momentum: 0.2}\n")
    config, _ = load_config(path)
    assert (config.lr, config.epochs) == (0.01, 3)
    assert config.ndpp == {"preset": "paper", "eps": 0.5, "momentum": 0.2}
    plain, _ = load_config(path, ["ndpp=null"])
    assert plain.ndpp is None


def test_overrides_come_last(write):
    path = write("leaf.yaml", "lr: 0.5\n")
    words = ["lr=1", "ndpp.eps=1e-3", "ndpp.rules.fc=false", "crop_scale=[0.2, 1]", "auto_augment="]
    config, _ = load_config(path, words, name="resnet18", num_classes=None)
    assert (config.lr, config.name, config.crop_scale, config.auto_augment) == (1, "resnet18", (0.2, 1), "")
    assert config.ndpp == {"eps": 1e-3, "rules": {"fc": False}}


@pytest.mark.parametrize(
    ("text", "words", "error", "message"),
    [
        ("epoch: 3", [], KeyError, "no setting 'epoch'. The nearest: epochs"),
        ("lr: 1", ["epoch=3"], KeyError, "override 'epoch=3': no setting 'epoch'. The nearest: epochs"),
        ("lr: 1", ["epochs"], ValueError, "not KEY=VALUE"),
        ("lr: 1", ["lr=[1"], ValueError, "not YAML"),
        ("lr: [1", [], ValueError, "not YAML"),
        ("- lr", [], ValueError, "holds a list"),
        ("_base_: none.yaml", [], FileNotFoundError, "names 'none.yaml'"),
        ("_base_: leaf.yaml", [], ValueError, "builds on itself"),
        ("lr: 1\nepochs: 3\nlr: 2", [], ValueError, "line 3: it is not YAML: the key 'lr' stands twice"),
        ("ndpp: {eps: 1, eps: 2}", [], ValueError, "the key 'eps' stands twice"),
        ("lr: 1", ["ndpp={eps: 1, eps: 2}"], ValueError, "the key 'eps' stands twice"),
        ("lr: fast", [], ValueError, "lr is 'fast'"),
        ("lr: 1", ["ndpp.epss=1"], ValueError, "Did you mean 'eps'"),
    ],
)
def test_what_is_wrong_is_named(write, text, words, error, message):
    with pytest.raises(error, match=message):
        load_config(write("leaf.yaml", text), words)


def test_unknown_configs_name_the_nearest():
    with pytest.raises(FileNotFoundError, match="resnet50_ndpp_bs256"):
        load_config("resnet50_ndpp_bs265")


def test_configs_say_each_thing_once():
    for path in CONFIGS:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        base, _ = load_config(path.parent / content.pop("_base_"))
        repeated = [key for key, value in content.items() if getattr(base, key) == value]
        assert repeated == [], path.name


def test_the_folder_holds_what_the_papers_used():
    names = {path.stem for path in CONFIGS}
    assert {"resnet50_ndpp_bs256", "resnet50_ndpp_bs2048", "resnet50_ndpp_lr1", "resnet50_hybrid_long"} <= names
    assert Path(CONFIGS[0]).parent.name == "imagenet"
