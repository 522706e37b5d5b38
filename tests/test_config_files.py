import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from ndpp_dense import config_files
from ndpp_dense.config_files import find_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    root = tmp_path / "configs"
    for name in ("detectron2/mask_rcnn_ndpp.yaml", "mmseg/deeplab_ndpp.py", "detectron2/same.yaml", "mmseg/same.yaml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}\n")
    monkeypatch.setattr(config_files, "config_folders", lambda: [root])
    return root


@pytest.mark.parametrize(
    "name", ["mask_rcnn_ndpp", "mask_rcnn_ndpp.yaml", "detectron2/mask_rcnn_ndpp", "detectron2/mask_rcnn_ndpp.yaml"]
)
def test_a_bare_name_is_found(folder, name):
    assert find_config(name) == folder / "detectron2" / "mask_rcnn_ndpp.yaml"


def test_an_existing_path_wins(folder, tmp_path, monkeypatch):
    mine = tmp_path / "mask_rcnn_ndpp.yaml"
    mine.write_text("{}\n")
    assert find_config(mine) == mine
    monkeypatch.chdir(tmp_path)
    assert find_config("mask_rcnn_ndpp.yaml").resolve() == mine


def test_an_unknown_name_says_what_is_near_and_where_it_looked(folder):
    with pytest.raises(FileNotFoundError) as caught:
        find_config("mask_rcn_ndp")
    message = str(caught.value)
    assert "'mask_rcn_ndp'" in message
    assert "mask_rcnn_ndpp.yaml" in message
    assert str(folder / "detectron2") in message
    assert str(folder / "mmseg") in message


def test_an_ambiguous_name_lists_the_choices(folder):
    with pytest.raises(ValueError, match=r"ambiguous.*detectron2.*same\.yaml.*mmseg.*same\.yaml"):
        find_config("same")
    assert find_config("mmseg/same") == folder / "mmseg" / "same.yaml"


def test_a_checkout_finds_its_own_folder():
    assert config_files.config_folders() == [ROOT / "configs"]


def test_the_wheel_carries_the_configs_and_the_type_marker(tmp_path):
    wheel = next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"ndpp_dense/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")}
    expected |= {f"ndpp_dense/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "model_zoo").rglob("*.*")}
    assert {
        "ndpp_dense/py.typed",
        "ndpp_dense/configs/README.md",
        "ndpp_dense/model_zoo/index.json",
    } | expected <= names
    with zipfile.ZipFile(wheel) as archive:
        scripts = next(name for name in names if name.endswith("entry_points.txt"))
        assert "ndpp = ndpp_dense.cli:main" in archive.read(scripts).decode()
