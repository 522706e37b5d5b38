"""Folders are looked at before a model is built, and pipelines of others check what ours do."""

import shutil

import pytest
from mmengine.config import Config

pytestmark = pytest.mark.mmseg

IMAGES, LABELS = "leftImg8bit/val/demo", "gtFine/val/demo"


@pytest.fixture
def folder(streets, tmp_path):
    """A copy of the streets."""
    return shutil.copytree(streets, tmp_path / "streets")


@pytest.fixture
def build(folder, monkeypatch):
    """Returns a function that builds the demo's configuration on the copy, and returns what was warned of."""
    from ndpp_dense.integrations.mmseg import checked_data
    from ndpp_dense.integrations.mmseg.run_config import build_config

    def run(**options):
        said = []
        monkeypatch.setattr(checked_data, "print_log", lambda text, *_: said.append(text))
        build_config("deeplabv3_ndpp_demo", dataset=str(folder), options=options)
        return "\n".join(said)

    return run


def files(folder, place):
    return sorted((folder / place).iterdir())


def test_a_whole_set_is_silent(build):
    assert build() == ""


def test_images_of_another_suffix_are_counted(build, folder):
    first = files(folder, IMAGES)[0]
    first.rename(first.with_suffix(".jpeg"))
    text = build()
    assert "1 of 2 files of" in text
    assert (
        "do not end in _leftImg8bit.png or are hidden and are left out (demo/demo_000000_000000_leftImg8bit.jpeg)"
        in text
    )
    assert "have no image and are left out (demo/demo_000000_000000_gtFine_labelTrainIds.png)" in text


def test_images_without_labels_are_refused(build, folder):
    files(folder, LABELS)[1].unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 of 2 images in .* have no labels in .*demo_000001.*labelTrainIds.png"
    ):
        build()


def test_hidden_folders_are_refused_and_hidden_files_left_out(build, folder):
    shutil.copy(files(folder, IMAGES)[0], folder / IMAGES / "._a_leftImg8bit.png")
    assert "._a_leftImg8bit.png" in build()
    hidden = folder / "leftImg8bit" / "val" / ".ipynb_checkpoints"
    hidden.mkdir()
    shutil.copy(files(folder, IMAGES)[1], hidden / "x_leftImg8bit.png")
    with pytest.raises(ValueError, match=r"1 of 3 images .* hidden folders \(.ipynb_checkpoints"):
        build()


def test_an_empty_set_and_missing_folders_are_refused(build, folder):
    for file in files(folder, IMAGES):
        file.unlink()
    with pytest.raises(FileNotFoundError, match="holds no image that ends in _leftImg8bit.png"):
        build()
    shutil.rmtree(folder / "leftImg8bit" / "val")
    with pytest.raises(FileNotFoundError, match=r"no folder .*leftImg8bit/val"):
        build()


def test_another_folder_for_evaluation_is_said(build, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "other")
    text = build(**{"train_dataloader.dataset.data_root": str(tmp_path / "other")})
    assert f"training reads {tmp_path / 'other'}, evaluation {folder}" in text


def test_pipelines_of_others_read_and_check_likewise():
    from ndpp_dense.integrations.mmseg.checked_data import check_pipelines

    steps = [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "scale": (64, 32), "keep_ratio": True},
        {"type": "LoadAnnotations"},
        {"type": "PackSegInputs"},
    ]
    inner = {"type": "BaseSegDataset", "pipeline": steps}
    own = {"type": "BaseSegDataset", "pipeline": [{"type": "LoadImageFromFile", "color_type": "unchanged"}]}
    config = Config(
        {
            "model": {"decode_head": [{"num_classes": 2}, {"num_classes": 3, "ignore_index": 7}]},
            "train_dataloader": {"dataset": {"type": "RepeatDataset", "dataset": inner}},
            "val_dataloader": {"dataset": {"type": "ConcatDataset", "datasets": [inner, own]}},
        }
    )
    check_pipelines(config)
    for dataset in (config.train_dataloader.dataset.dataset, config.val_dataloader.dataset.datasets[0]):
        assert [dict(step) for step in dataset.pipeline] == [
            {"type": "LoadCheckedImage", "scale": (64, 32)},
            {"type": "Resize", "scale": (64, 32), "keep_ratio": True},
            {"type": "LoadCheckedLabels"},
            {"type": "CheckLabels", "num_classes": 3, "ignore_index": 7},
            {"type": "PackSegInputs"},
        ]
    assert config.val_dataloader.dataset.datasets[1].pipeline[0].type == "LoadImageFromFile"


@pytest.mark.parametrize("suffix", [".JPG", ".jpeg", ".PNG"])
def test_a_folder_of_another_suffix_is_named_with_the_option(build, folder, suffix):
    for path in files(folder, IMAGES):
        path.rename(path.with_name(path.name.replace(".png", suffix)))
    with pytest.raises(FileNotFoundError) as error:
        build()
    assert f", but 2 in {suffix}: rename them to _leftImg8bit.png, or set train_dataloader.dataset.img_suffix" in str(
        error.value
    )


def test_palettes_of_their_own_are_refused(build, folder):
    from PIL import Image

    labels = [path for path in files(folder, LABELS) if path.name.endswith("labelTrainIds.png")]
    for path, colours in zip(labels, ([0, 0, 0, 9, 9, 9], [9, 9, 9, 0, 0, 0]), strict=True):
        with Image.open(path) as image:
            painted = image.convert("P")
        painted.putpalette(colours)
        painted.save(path)
    with pytest.raises(ValueError, match="have palettes of their own"):
        build()
