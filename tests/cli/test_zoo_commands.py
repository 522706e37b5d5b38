"""The command ``ndpp zoo`` on a zoo of its own; frameworks are in tests/integrations."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ndpp_dense.cli import main
from ndpp_dense.zoo import Cache, ZooFile, ZooIndex, ZooModel, load_index
from ndpp_dense.zoo.index import write_index
from ndpp_dense.zoo.pages import write_pages
from ndpp_dense.zoo.publish import write_weights
from ndpp_dense.zoo.rows import Metric


@pytest.fixture(autouse=True)
def index(tmp_path, monkeypatch):
    monkeypatch.setenv("NDPP_ZOO_INDEX", str(tmp_path / "zoo" / "index.json"))
    monkeypatch.setenv("NDPP_HOME", str(tmp_path / "home"))
    for name in ("NDPP_ZOO_MIRROR", "NDPP_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    row = ZooModel("here", 1, "classification", "timm", "resnet18_ndpp_small", "toys", "one step", "MIT", "make here")
    made = ZooIndex(tmp_path / "zoo" / "index.json", (), {})
    here = write_weights(row, {"weight": torch.ones(3)}, {}, made)
    metric = Metric("top1", 77.0, "toys", "published", reference="Table 1")
    recipe = replace(row, name="recipe", command="make it yourself", metrics=(metric,))
    far = replace(
        row, name="far", files=(ZooFile("far-1.pth", "0" * 64, 10, "pth", ("http://127.0.0.1:9/far-1.pth",)),)
    )
    made.models.update(here=here, recipe=recipe, far=far)
    write_index(made)
    write_pages(made)
    return made


def test_list_says_what_is_where(capsys):
    assert main(["zoo", "list"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert rows["here"].endswith("with the package")
    assert rows["far"].endswith("to fetch")
    assert rows["recipe"].endswith("recipe only")
    assert "top1 77* (*: published)" in rows["recipe"]
    assert main(["zoo", "list", "--weights", "f*"]) == 0
    assert "recipe" not in capsys.readouterr().out
    assert main(["zoo", "list", "nothing*"]) == 2


def test_inference_reads_hashes_and_unpacks_once(index, tmp_path, monkeypatch):
    """What the framework would do is left out: `ndpp infer` gives it the weights as they are."""
    import hashlib

    import ndpp_dense.cli.infer as infer
    import ndpp_dense.zoo.index as zoo_index
    import ndpp_dense.zoo.weights as zoo_weights

    counts = {"index": 0, "hash": 0, "unpack": 0, "predictor": 0}

    def counted(name, function):
        def call(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        return call

    class Found:
        def picture(self):
            return np.zeros((4, 4, 3), np.uint8)

        def summary(self):
            return "nothing"

    def predictor(checkpoint, device, score):
        counts["predictor"] += 1
        assert checkpoint.weights["weight"].tolist() == [1.0, 1.0, 1.0]
        return lambda image: Found()

    sha256, size = hashlib.sha256, index.models["here"].weights.size
    monkeypatch.setattr(
        hashlib,
        "sha256",
        lambda data=b"", **words: (counted("hash", sha256) if len(data) in (0, size) else sha256)(data, **words),
    )
    monkeypatch.setattr(zoo_index, "read_content", counted("index", zoo_index.read_content))
    monkeypatch.setattr(zoo_weights, "unpack", counted("unpack", zoo_weights.unpack))
    monkeypatch.setattr(infer, "predictor_of", lambda model: SimpleNamespace(of_zoo=predictor))
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    words = [
        "infer",
        str(tmp_path / "a.png"),
        "--weights",
        "here",
        "--output",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    assert main(words) == 0
    assert counts == {"index": 1, "hash": 1, "unpack": 1, "predictor": 1}


def test_info_download_and_path(index, capsys):
    assert main(["zoo", "info", "here"]) == 0
    text = capsys.readouterr().out
    assert index.models["here"].files[0].sha256 in text
    assert main(["zoo", "path", "here"]) == 0
    assert capsys.readouterr().out.strip() == str(index.shipped(index.models["here"].files[0]))
    assert main(["zoo", "download", "here", "far"]) == 2
    assert "far: no source has far-1.pth" in capsys.readouterr().err
    assert main(["zoo", "download", "recipe"]) == 2
    assert "only a recipe: train it with: make it yourself" in capsys.readouterr().err
    assert main(["zoo", "info", "hera"]) == 2
    assert "Did you mean here" in capsys.readouterr().err


def test_verify_sees_damage(index, capsys):
    assert main(["zoo", "verify", "--hash-only"]) == 0
    assert "here: " in capsys.readouterr().out
    assert main(["zoo", "verify"]) == 0
    assert "not evaluated: give its data with --data here=PATH" in capsys.readouterr().out
    index.shipped(index.models["here"].files[0]).write_bytes(b"damaged")
    assert main(["zoo", "verify", "--hash-only"]) == 1
    assert main(["zoo", "verify", "far"]) == 1
    assert main(["zoo", "verify", "--data", "here"]) == 2


def test_prune_keeps_what_the_index_names(index, tmp_path, capsys):
    blobs = tmp_path / "home" / "blobs"
    blobs.mkdir(parents=True)
    named = index.models["far"].files[0].sha256
    for name in (named, "1" * 64, f"{named}.part"):
        (blobs / name).write_bytes(b"x" * 10)
    with Cache().locked("2" * 64):  # as a process that fetches it
        (blobs / f"{'2' * 64}.part").write_bytes(b"x")
        assert main(["zoo", "prune", "--all"]) == 0
    assert sorted(path.name[0] for path in blobs.iterdir() if path.suffix != ".lock") == ["2"]
    for path in blobs.iterdir():
        path.unlink()
    for name in (named, "1" * 64, f"{named}.part"):
        (blobs / name).write_bytes(b"x" * 10)
    assert main(["zoo", "prune", "--days", "1"]) == 0
    assert len(list(blobs.iterdir())) == 3
    assert main(["zoo", "prune"]) == 0
    assert [path.name for path in blobs.iterdir()] == [named]
    assert main(["zoo", "prune", "--all"]) == 0
    assert list(blobs.iterdir()) == []
    assert "1 files" in capsys.readouterr().out


def test_refresh_writes_digest_and_pages_after_an_edit(index, capsys):
    content = json.loads(index.path.read_text())
    content["models"][0]["note"] = "edited"
    index.path.write_text(json.dumps(content))
    assert main(["zoo", "list"]) == 2
    assert main(["zoo", "publish", "--refresh"]) == 0
    assert load_index().models["far"].note == "edited"
    content["models"][0]["files"][0]["name"] = "../up"
    index.path.write_text(json.dumps(content))
    assert main(["zoo", "publish", "--refresh"]) == 2
    assert "plain name" in capsys.readouterr().err


def test_publishing_needs_a_card(tmp_path, capsys):
    torch.save({}, tmp_path / "x.pth")
    assert main(["zoo", "publish", str(tmp_path / "x.pth"), "--config", "resnet18_ndpp_small"]) == 2
    assert "a card needs --task, --data, --budget, --licence, --command" in capsys.readouterr().err
    assert main(["zoo", "publish"]) == 2


@pytest.mark.slow
def test_a_run_is_published_without_its_optimizer_and_with_averaged_weights(index, tmp_path, capsys):
    pytest.importorskip("timm", reason="timm is not installed: extra 'pretrain'")
    from ndpp_dense import load_checkpoint
    from ndpp_dense.pretrain.zoo import build_zoo_model

    row = replace(index.models["recipe"], name="toy", overrides=("ndpp.block_size=8",), classes=("a", "b", "c"))
    network = build_zoo_model(row)
    averaged = {name: value + 0.25 if name == "fc.bias" else value for name, value in network.state_dict().items()}
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(10**6)}}}
    run = {"model": network.state_dict(), "model_ema": averaged, "optimizer": optimizer}
    torch.save(run, tmp_path / "last.pth")
    (tmp_path / "results.json").write_text('{"best": {"top1": 63.5, "epoch": 3.0}}')
    words = ["zoo", "publish", str(tmp_path / "last.pth"), "--config", "resnet18_ndpp_small", "--name", "toy"]
    words += [
        "--override",
        *row.overrides,
        "--classes",
        "a",
        "b",
        "c",
        "--seed",
        "1",
        "--commit",
        "abc",
        "--image-size",
    ]
    words += ["32", "32", "--metrics", str(tmp_path / "results.json"), "--keep", "best/top1"]
    for name in ("task", "data", "budget", "licence", "command"):
        words += [f"--{name}", f"the {name}"]
    assert main(words) == 0, capsys.readouterr().err
    published = load_checkpoint("toy", build_zoo_model(row))
    assert torch.allclose(published.weights["fc.bias"], averaged["fc.bias"], atol=1e-3)
    assert (published.model.metrics[0].value, published.model.metrics[0].trained) == (63.5, None)
    assert published.model.params == pytest.approx(11.18, abs=0.01)
    assert published.model.gflops == pytest.approx(1.814 * (32 / 224) ** 2, rel=0.05)  # the card's, at 224 pixels
    assert published.model.files[0].size < 30e6
    assert "`the command`" in (index.path.parent / "README.md").read_text()
    first, images = published.path, _images(tmp_path / "images")
    assert main(["zoo", "verify", "toy", "--data", f"toy={images}"]) == 1
    assert "card 63.50 +- 0.05: NOT as on the card" in capsys.readouterr().out
    words[words.index("best/top1")] = "top1"
    (tmp_path / "results.json").write_text('{"top1": 63.5}')
    assert main([*words, "--evaluate", str(images)]) == 0
    assert load_index().models["toy"].version == 2
    assert not first.exists()
    (metric,) = load_index().models["toy"].metrics
    assert metric.trained == 63.5
    assert metric.value in (0.0, pytest.approx(100 / 3, abs=0.01), pytest.approx(200 / 3, abs=0.01), 100.0)
    assert main(["zoo", "verify", "toy", "--data", f"toy={images}"]) == 0


def _images(folder):
    """An image of each of three classes for training and validation."""
    from PIL import Image

    for number, name in enumerate("abc"):
        for split in ("train", "val"):
            (folder / split / name).mkdir(parents=True)
            Image.new("RGB", (64, 64), (80 * number, 40, 200)).save(folder / split / name / "1.png")
    return folder


def test_doctor_finds_this_environment_whole(capsys):
    from ndpp_dense.cli import checks

    index = checks._zoo()
    assert [finding.fine for finding in index] == [True, True]
    assert checks._python().fine
    assert checks._network().state.startswith("set: ")


def test_doctor_says_what_to_type(monkeypatch, tmp_path, capsys, index):
    from ndpp_dense.cli import checks, doctor

    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("NDPP_HOME", str(tmp_path / "file" / "home"))
    index.shipped(index.models["here"].files[0]).write_bytes(b"damaged")
    monkeypatch.setattr(doctor, "all_findings", checks._zoo)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "2 broken: model zoo, cache" in out
    assert "export NDPP_HOME=" in out
    assert "pip install --force-reinstall" in out


def test_infer_says_what_it_cannot_do(tmp_path, capsys):
    assert main(["infer", str(tmp_path / "none.jpg"), "--weights", "here"]) == 2
    assert "does not exist" in capsys.readouterr().err
    (tmp_path / "x.png").write_bytes(b"")
    assert main(["infer", str(tmp_path / "x.png"), "--weights", "here"]) == 2
    assert "it makes no pictures" in capsys.readouterr().err
    assert main(["infer", str(tmp_path), "--weights", "here", "--score", "2"]) == 2
