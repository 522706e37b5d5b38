import csv
import json

import numpy as np
import pytest
from PIL import Image

from ndpp_dense.cli import main

pytest.importorskip("timm", reason="timm is not installed: extra 'pretrain'")


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    place = tmp_path / "pictures"
    place.mkdir()
    for number in range(4):
        coarse = generator.integers(0, 255, (8, 8, 3)).repeat(8, 0).repeat(8, 1) + generator.normal(0, 20, (64, 64, 3))
        Image.fromarray(coarse.clip(0, 255).astype(np.uint8)).save(place / f"p{number}.png")
    return place


def words(folder, *more):
    given = ["--data", str(folder), "--size", "64", "--model", "resnet18", "--device", "cpu", "--resamples", "20"]
    return ["perceptual", *given, *more]


def test_a_run_leaves_results_distances_weights_and_figures(folder, tmp_path, capsys):
    out = tmp_path / "out"
    main(words(folder, "--output", str(out), "--baselines", "psnr", "ssim", "dists", "--test-share", "0.5"))
    printed = capsys.readouterr().out
    assert "140 pairs, 2 references for training, 2 for testing" in printed
    assert "DISTS: not measured here: needs" in printed
    results = json.loads((out / "results.json").read_text())
    assert results["references"] == {"train": 2, "test": 2}
    assert set(results["distances"]) == {
        *(f"{name} {variant}" for name in ("gap", "activation") for variant in ("uniform", "trained")),
        "psnr",
        "ssim",
    }
    with (out / "distances.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 140
    parts = {part: {row["reference"] for row in rows if row["part"] == part} for part in ("train", "test")}
    assert not parts["train"] & parts["test"]
    for name in ("agreement.png", "shift.png"):
        with Image.open(out / name) as figure:
            assert figure.size[0] > 500
    main(
        words(
            folder, "--output", str(tmp_path / "again"), "--peers", "--distance-weights", str(out / "gap.safetensors")
        )
    )
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    assert again["references"] == {"train": 0, "test": 4}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--ratings", "live"], "--ratings live: choose from generated, kadid10k"),
        (["--ratings", "kadid10k"], "no rating file dmos.csv in"),
        (["--size", "128"], "Image too small"),
        (["--weights", "absent.pth"], "weights absent.pth not found"),
        (["--baselines", "lpips"], "Unknown baseline 'lpips'"),
        (["--loss", "l2"], "Unknown loss 'l2'"),
        (["--test-share", "2"], "test_share = 2.0"),
    ],
)
def test_mistakes_end_in_a_message(folder, tmp_path, capsys, more, said):
    assert main(words(folder, "--output", str(tmp_path / "out"), *more)) == 2
    assert said in capsys.readouterr().err
