"""``ndpp infer`` goes on after a bad file, names it, and says so by its exit code."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ndpp_dense.cli import infer, main

PIXELS = np.random.default_rng(0).integers(0, 7, (32, 32, 3), np.uint8)


class Finding:
    """What a predictor returns."""

    def __init__(self, image):
        self.image = image

    def picture(self):
        return self.image

    def record(self):
        return {"shape": self.image.shape}

    def summary(self):
        return f"mean {self.image.mean():.0f}"


def predictor(checkpoint, device, score):
    def predict(image):
        if min(image.shape[:2]) < 4:
            raise ValueError("too thin")
        return Finding(image)

    return predict


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Returns a function that runs the command on a place, with a stand-in for a network."""
    monkeypatch.setattr(infer, "load_index", lambda: SimpleNamespace(find=lambda name: SimpleNamespace(name=name)))
    monkeypatch.setattr(infer, "predictor_of", lambda model: SimpleNamespace(of_zoo=predictor))
    monkeypatch.setattr("ndpp_dense.zoo.load_checkpoint", lambda name, index: name)

    def call(place):
        words = ["infer", str(place), "--weights", "x", "--output", str(tmp_path / "out"), "--json", "--device", "cpu"]
        try:
            return main(words)
        except SystemExit as end:
            return end.code

    return call


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "in"
    place.mkdir()
    for name in ("a.png", "z.png"):
        Image.fromarray(PIXELS).save(place / name)
    return place


def test_a_folder_of_good_images_ends_with_0(run, folder, tmp_path, capsys):
    assert run(folder) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a.png.json",
        "a.png.png",
        "z.png.json",
        "z.png.png",
    ]
    assert "left out" not in capsys.readouterr().out


def test_bad_images_are_listed_and_the_others_done(run, folder, tmp_path, capsys):
    (folder / "empty.png").touch()
    whole = (folder / "a.png").read_bytes()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (90, 2)).save(folder / "thin.png")
    (folder / "._a.png").write_bytes(b"\0\5\x16\7")
    (folder / "notes.txt").touch()
    assert run(folder) == 1
    said = capsys.readouterr().out
    for line in (
        "left out are 1 that do not end as images do (.txt 1; first: notes.txt); 1 hidden (._a.png)",
        f"failed: cannot read image {folder / 'empty.png'}: the file is empty (0 bytes)",
        f"failed: cannot read image {folder / 'half.png'}: ",
        f"failed: {folder / 'thin.png'} (90 x 2 pixels): too thin",
        "3 of 5 images failed",
    ):
        assert line in said
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"a.png.png", "z.png.png"}


def test_nothing_but_bad_images_ends_with_2(run, folder, capsys):
    (folder / "a.png").write_bytes(b"<html>")
    assert run(folder / "a.png") == 2
    assert f"cannot read image {folder / 'a.png'}: it is no image" in capsys.readouterr().err
    (folder / "z.png").write_bytes(b"")
    assert run(folder) == 2
    said = capsys.readouterr().err
    assert "none of 2 images" in said
    assert "a.png" in said
    assert "z.png" in said


def test_a_folder_without_images_says_what_it_holds(run, folder, capsys):
    for name in ("a", "z"):
        (folder / f"{name}.png").rename(folder / f"{name}.gif")
    assert run(folder) == 2
    assert "holds no image (it holds 2 that do not end as images do (.gif 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own.pth", "--weights own.pth is not there. Names of the model zoo: `ndpp zoo list`"),
        ("runs/model_final.pth", "is not there"),
        ("in", "--weights in is a folder: name a checkpoint in it"),
        ("https://host/w.pkl", "download it first, and name the file with its --config"),
        ("real.pth", "no config.yaml is beside it, as `ndpp train-det` writes it. Name the config that it was trained"),
    ],
)
def test_weights_of_a_file_need_their_config(tmp_path, monkeypatch, capsys, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "real.pth").touch()
    Image.fromarray(PIXELS).save(tmp_path / "in" / "a.png")
    assert main(["infer", "in", "--weights", name, "--device", "cpu"]) == 2
    assert message in capsys.readouterr().err


def test_a_config_is_not_for_names_of_the_zoo_and_classifiers_make_no_pictures(run, folder, tmp_path, capsys):
    words = ["infer", str(folder), "--device", "cpu", "--config", "resnet18_ndpp_small", "--weights"]
    assert main([*words, "x"]) == 2
    assert (
        "--config resnet18_ndpp_small is for --weights FILE: x has its own in the model zoo" in capsys.readouterr().err
    )
    (tmp_path / "best.pth").touch()
    assert main([*words, str(tmp_path / "best.pth")]) == 2
    assert "is of a classifier, which makes no pictures" in capsys.readouterr().err
