"""From batch norms to ND++ in the same step."""

import numpy as np
import pytest
import torch

pytest.importorskip("timm", reason="timm is not installed: extra 'pretrain'")

from ndpp_dense import WhiteningConfig, create_backbone  # noqa: E402
from ndpp_dense.backbones.cards import CARDS, R18, BackboneCard  # noqa: E402
from ndpp_dense.cli import main  # noqa: E402
from ndpp_dense.pretrain.config import PretrainConfig  # noqa: E402
from ndpp_dense.pretrain.network import build_network  # noqa: E402
from ndpp_dense.weights.from_batch_norm import image_batches  # noqa: E402

OPTIONS = {"depths": R18, "pattern": None, "channels": [4, 8, 8, 8], "stem_type": "deep", "stem_width": 4}


@pytest.fixture
def images(tmp_path):
    """A folder of 24 images in two subfolders."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for index in range(24):
        file = tmp_path / "images" / f"class{index % 2}" / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (80, 96, 3), dtype=np.uint8)).save(file)
    return tmp_path / "images"


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A small model whose norms have statistics, and its file."""
    card = BackboneCard("small18", 0, 0, None, None, "test", "resnet", OPTIONS)
    monkeypatch.setitem(CARDS, "small18", card)
    torch.manual_seed(0)
    model = create_backbone("small18", 5)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and name.endswith("weight"):
            torch.nn.init.uniform_(parameter, 0.5, 1.0)
    for _ in range(5):
        model(torch.randn(4, 3, 64, 64))
    torch.save(model.state_dict(), tmp_path / "bn.pth")
    return model.eval(), tmp_path / "bn.pth"


def convert(*words):
    return main(["convert", *map(str, words)])


def calibrate(file, output, images, *words):
    sizes = ("--image-size", 64, "--batch-size", 8, "--batches", 3)
    return convert(file, output, "--calibrate", images, "--model", "small18", *sizes, *words)


@torch.no_grad()
def test_the_same_function_in_nd_layers(tmp_path, trained, images, capsys):
    model, file = trained
    calibrate(file, tmp_path / "nd.safetensors", images, "--to", "timm", "--local-scale", "none")
    from safetensors.torch import load_file

    nd_model = create_backbone("small18", 5, WhiteningConfig.fast().override({"local_scale": "none"})).eval()
    nd_model.load_state_dict(load_file(tmp_path / "nd.safetensors"))
    x = next(image_batches(images, 64, 8))
    expected, found = model.forward_features(x), nd_model.forward_features(x)
    assert (found - expected).norm() / expected.norm() < 1e-3
    text = capsys.readouterr().out
    assert "calibrating on 24 images" in text
    assert "folded" in text
    assert "calibrated" in text


@pytest.mark.mmseg
def test_all_in_one_step(tmp_path, trained, images):
    calibrate(trained[1], tmp_path / "nd.pth", images, "--to", "mmseg", "--preset", "paper")
    content = torch.load(tmp_path / "nd.pth", weights_only=True)
    assert "layer1.0.conv1.whitening.running_mean" in content["state_dict"]
    assert not [name for name in content["state_dict"] if ".bn" in name or name.startswith("fc.")]
    facts = content["ndpp_dense"]["ndpp"]
    assert facts["shared_blocks"] is True
    assert facts["statistics"] == "batch"
    convert(tmp_path / "nd.pth", tmp_path / "timm.pth", "--to", "timm")
    create_backbone("small18", 0, WhiteningConfig.paper()).load_state_dict(
        torch.load(tmp_path / "timm.pth", weights_only=True)["state_dict"]
    )


def distance(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@torch.no_grad()
def test_layers_without_local_scale(tmp_path, trained, images, capsys):
    model, file = trained
    trunk = ("--no-scale", "conv1.*", "--no-scale", "*.downsample.*", "--no-scale", "fc")
    calibrate(file, tmp_path / "all.pth", images, "--to", "timm")
    assert "rules" not in capsys.readouterr().out
    calibrate(file, tmp_path / "branches.pth", images, "--to", "timm", *trunk)
    assert "note: made with the ndpp rules {'conv1.*': {'local_scale': 'none'}, " in capsys.readouterr().out
    x = next(image_batches(images, 64, 8)) * torch.linspace(0.5, 1.5, 8).view(-1, 1, 1, 1)
    found = {}
    for name in ("all", "branches"):
        content = torch.load(tmp_path / f"{name}.pth", weights_only=True)
        config = PretrainConfig("small18", ndpp={"rules": content["ndpp_dense"]["ndpp"].get("rules")})
        nd_model = build_network(config, 5).eval()
        nd_model.load_state_dict(content["state_dict"])
        found[name] = nd_model(x), nd_model(2 * x)
    torch.testing.assert_close(*found["all"])  # an image is the same at any contrast, which the original cannot say
    assert distance(*found["branches"]) > distance(model(x), model(2 * x)) / 2
    assert calibrate(file, tmp_path / "no.pth", images, "--to", "timm", "--no-scale", "conv9") == 2
    assert "conv9" in capsys.readouterr().err


def test_what_cannot_be_calibrated(tmp_path, trained, images, capsys):
    file, output = trained[1], tmp_path / "nd.pth"
    calibrate(file, output, images, "--to", "timm")
    again = tmp_path / "again.pth"
    (tmp_path / "empty").mkdir()
    for words, message in (
        ((output, again, images), "layers are ND++ already: conv1.0, ..."),
        ((file, again, tmp_path / "no"), "there is no folder"),
        ((file, again, tmp_path / "empty"), "empty holds no .jpg, .jpeg, .png"),
        ((file, again, images, "--batches", 0), "size = 64, batch_size = 8, count = 0 must all be >= 1"),
    ):
        assert calibrate(*words, "--to", "timm") == 2
        assert message in capsys.readouterr().err
    assert not again.exists()


def test_images_are_those_of_evaluation(images):
    (images / "notes.txt").write_text("no image")
    batches = list(image_batches(images, 32, 10, 2))
    assert [batch.shape for batch in batches] == [(10, 3, 32, 32)] * 2
    assert all(torch.equal(*pair) for pair in zip(batches, image_batches(images, 32, 10, 2), strict=True))
    assert -2.2 < batches[0].min() < -1 < 1 < batches[0].max() < 2.7
    (images / "class0" / "0.png").write_bytes(b"no image either")
    with pytest.raises(ValueError, match=r"cannot read image .*0.png: it is no image"):
        list(image_batches(images, 32, 24, 1))
