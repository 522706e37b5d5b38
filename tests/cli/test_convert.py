"""Weights go from framework to framework and back, to the bit, or not at all."""

import pickle

import pytest
import torch

from ndpp_dense import WhiteningConfig

pytest.importorskip("timm", reason="timm is not installed: extra 'pretrain'")

from ndpp_dense.backbones import create_backbone  # noqa: E402
from ndpp_dense.backbones.cards import CARDS, R18, R50, BackboneCard  # noqa: E402
from ndpp_dense.cli import main  # noqa: E402

detectron2, mmseg = pytest.mark.detectron2, pytest.mark.mmseg
SMALL = {"channels": [8, 16, 32, 64]}
OTHERS = [pytest.param("detectron2", marks=detectron2), pytest.param("mmseg", marks=mmseg)]


@pytest.fixture(autouse=True)
def small_backbones(monkeypatch):
    """Backbones of a few thousand weights in the place of most real ones, which take their time to compare with."""
    before = dict(CARDS)
    for name in before.keys() - {"resnet18"}:
        del CARDS[name]
    for name, depths, pattern in (("small18", R18, None), ("small50", R50, "BBBB"), ("small50_hybrid", R50, "hybrid")):
        options = {"depths": depths, "pattern": pattern, **SMALL}
        monkeypatch.setitem(CARDS, name, BackboneCard(name, 0, 0, None, None, "test", "resnet", options))
    stem = {"stem_type": "deep", "stem_width": 8}
    options = {"depths": R18, "pattern": None, **SMALL, **stem}
    monkeypatch.setitem(CARDS, "small18c", BackboneCard("small18c", 0, 0, None, None, "test", "resnet", options))
    yield
    CARDS.clear()
    CARDS.update(before)  # in their order, by which equal ones are told apart


def weights(name, ndpp=None):
    """Every entry of the state with values of its own."""
    torch.manual_seed(0)
    model = create_backbone(name, 5, ndpp)
    return {
        key: torch.randn_like(value) if value.is_floating_point() else value + 7
        for key, value in model.state_dict().items()
    }


def save(entries, file, container="state_dict"):
    torch.save({container: entries} if container else entries, file)
    return file


def convert(*words):
    return main(["convert", *map(str, words)])


def read(file):
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    content = torch.load(file, weights_only=True)
    return content.get("state_dict", content.get("model", content))


def same(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def headless(entries):
    return {name: value for name, value in entries.items() if not name.startswith("fc.")}


@pytest.mark.parametrize(
    ("name", "ndpp"),
    [
        pytest.param("small18", None, id="small18"),
        pytest.param("small50", None, id="small50"),
        pytest.param("small50_hybrid", None, id="hybrid"),
        pytest.param("small50_hybrid", WhiteningConfig.fast(), id="hybrid-fast"),
        pytest.param("small18", WhiteningConfig.paper(), id="small18-paper"),
    ],
)
@pytest.mark.parametrize("target", OTHERS)
def test_there_and_back(tmp_path, capsys, name, target, ndpp):
    entries = weights(name, ndpp)
    file, result = save(entries, tmp_path / "a.pth"), tmp_path / ("c.safetensors" if ndpp else "c.pth")
    convert(file, tmp_path / "b.pth", "--to", target)
    convert(tmp_path / "b.pth", result, "--to", "timm")
    same(read(result), headless(entries))
    text = capsys.readouterr().out
    assert f"model {name}: recognised" in text
    assert f"from {target}: the file says so" in text
    assert text.count("0 left over, 0 missing, 0 shape") == 2
    assert "fc.{weight,bias" in text
    assert "classifier" in text
    assert "MSRA" not in text
    create_backbone(name, 0, ndpp).load_state_dict(read(result))


@mmseg
def test_deep_stems_of_timm_and_mmseg(tmp_path):
    entries = weights("small18c")
    timms = {name.replace("conv1.7.", "bn1."): value for name, value in entries.items()}
    convert(save(timms, tmp_path / "a.pth"), tmp_path / "b.pth", "--to", "mmseg")
    assert {"stem.0.weight", "stem.7.running_mean"} <= read(tmp_path / "b.pth").keys()
    convert(tmp_path / "b.pth", tmp_path / "c.pth", "--to", "timm")
    same(read(tmp_path / "c.pth"), headless(entries))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_classifier_keeps_its_head(tmp_path, suffix):
    from safetensors.torch import save_file

    entries = weights("small18")
    save_file(entries, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / f"b.{suffix}", "--to", "torchvision")
    same(read(tmp_path / f"b.{suffix}"), entries)
    if suffix == "pth":  # as torchvision publishes them: nothing else in the file
        assert torch.load(tmp_path / "b.pth", weights_only=True).keys() == entries.keys()


def test_facts_and_wrappers(tmp_path, capsys):
    entries = {f"module.{name}": value for name, value in weights("small18", WhiteningConfig.fast()).items()}
    config = {"name": "small18", "ndpp": {"preset": "fast"}}
    torch.save({"model": entries, "config": config}, tmp_path / "best.pth")
    convert(tmp_path / "best.pth", tmp_path / "b.pth", "--to", "timm")
    assert "with the same blocks only (preset=fast)" in capsys.readouterr().out
    facts = torch.load(tmp_path / "b.pth", weights_only=True)["ndpp_dense"]
    assert len(facts.pop("sha256")) == 64
    assert facts == {"source": "best.pth", "model": "small18", "ndpp": {"preset": "fast"}, "format": "timm"}


@detectron2
def test_a_detector_of_the_model_zoo(tmp_path, capsys):
    from ndpp_dense.weights.detectron2_names import to_detectron2

    entries = {n: v for n, v in headless(weights("small50")).items() if not n.endswith("num_batches_tracked")}
    arrays = {f"backbone.bottom_up.{name}": value.numpy() for name, value in to_detectron2(entries).items()}
    arrays["backbone.fpn_output2.weight"] = arrays["roi_heads.x.bias"] = torch.zeros(3).numpy()
    with (tmp_path / "a.pkl").open("wb") as stream:
        pickle.dump({"model": arrays, "__author__": "Detectron2 Model Zoo"}, stream)
    convert(tmp_path / "a.pkl", tmp_path / "b.pth", "--to", "timm")
    found = read(tmp_path / "b.pth")
    assert {name: value for name, value in found.items() if "num_batches" in name} != {}
    same({name: value for name, value in found.items() if "num_batches" not in name}, entries)
    text = capsys.readouterr().out
    assert "from detectron2: it has 'backbone.bottom_up." in text
    assert "backbone.fpn_output2.weight" in text
    assert "outside the backbone" in text
    assert "2 dropped, 0 left over" in text
    assert "MSRA" in text


@mmseg
def test_a_segmentor(tmp_path):
    from mmengine.logging import HistoryBuffer

    from ndpp_dense.weights.mmseg_names import to_mmseg

    entries = weights("small18c")
    names = {f"backbone.{name}": value for name, value in to_mmseg(headless(entries)).items()}
    content = {
        "state_dict": {**names, "decode_head.conv.weight": torch.zeros(2)},
        "message_hub": HistoryBuffer([1.0], [1]),
    }
    torch.save(content, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.pth", "--to", "timm", "--model", "small18c")
    same(read(tmp_path / "b.pth"), headless(entries))


def failure(capsys, *words):
    assert convert(*words) == 2
    return capsys.readouterr()


def test_a_left_over_key_fails_and_is_named_with_the_nearest(tmp_path, capsys):
    entries = weights("small18")
    entries["layer1.0.convl.weight"] = entries.pop("layer1.0.conv1.weight")
    text = failure(capsys, save(entries, tmp_path / "a.pth"), tmp_path / "b.pth", "--to", "timm")
    assert "1 left over: layer1.0.convl.weight (nearest: layer1.0.conv1.weight)" in text.err
    assert "1 missing: layer1.0.conv1.weight" in text.err
    assert "left over" in text.out
    assert not (tmp_path / "b.pth").exists()


def test_what_the_user_allows(tmp_path, capsys):
    entries = weights("small18")
    del entries["layer4.1.conv2.weight"]
    file = save({**entries, "teacher.weight": torch.zeros(2)}, tmp_path / "a.pth")
    words = (file, tmp_path / "b.pth", "--to", "timm", "--allow", "teacher.*")
    assert "1 missing: layer4.1.conv2.weight" in failure(capsys, *words).err
    convert(*words, "--allow", "layer4.1.conv2.*")
    same(read(tmp_path / "b.pth"), entries)
    assert "teacher.weight" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--to", "timm", "--model", "small19"), "Did you mean 'small18'"),
        (("--to", "timm", "--model", "small50"), "160 missing: layer1.0.conv3.weight, ...; 30 shape"),
        pytest.param(("--to", "timm", "--from", "mmseg", "--model", "resnet18"), "shape: conv1", marks=mmseg),
        pytest.param(
            ("--to", "timm", "--from", "detectron2"),
            "None of 128 names is of detectron2's ResNet: conv1.weight",
            marks=detectron2,
        ),
    ],
)
def test_wrong_choices(tmp_path, capsys, words, message):
    file = save({**weights("small18"), "conv1.weight": torch.zeros(8, 3, 7, 7)}, tmp_path / "a.pth")
    assert message in failure(capsys, file, tmp_path / "b.pth", *words).err


def test_wrong_files(tmp_path, capsys):
    file = save(weights("small18"), tmp_path / "a.pth")
    text = failure(capsys, file, tmp_path / "b.safetensors", "--to", "mmseg").err
    assert "mmseg reads no .safetensors: write .pth" in text
    assert "is the file that is read" in failure(capsys, file, file, "--to", "timm").err
    assert "nearest names there: a.pth" in failure(capsys, tmp_path / "b.pth", tmp_path / "c.pth", "--to", "timm").err
    file.write_bytes(file.read_bytes()[:-100])
    assert "truncated, corrupt" in failure(capsys, file, tmp_path / "b.pth", "--to", "timm").err
    other = save({"res2_0_branch2a_w": torch.zeros(2)}, tmp_path / "r50.pth")
    assert "has Caffe2's names" in failure(capsys, other, tmp_path / "b.pth", "--to", "timm").err
    other = save({"encoder.weight": torch.zeros(2)}, tmp_path / "vit.pth")
    assert (
        "names of no known framework: encoder.weight" in failure(capsys, other, tmp_path / "b.pth", "--to", "timm").err
    )


@pytest.mark.parametrize("target", OTHERS)
def test_frameworks_without_a_place(tmp_path, capsys, monkeypatch, target):
    options = {"depths": R18, "pattern": "hybrid", **SMALL, "block_args": {"attn_layer": "se"}}
    monkeypatch.setitem(CARDS, "small_se", BackboneCard("small_se", 0, 0, None, None, "test", "resnet", options))
    file = save(weights("small_se"), tmp_path / "a.pth")
    text = failure(capsys, file, tmp_path / "b.pth", "--to", target, "--model", "small_se").err
    assert "ResNet has no place for 32 of" in text
    assert "layer1.0.se.fc1.weight" in text
