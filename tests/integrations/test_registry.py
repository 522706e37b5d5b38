"""Records must be true: everything that they name is there, and each tells its framework's configs from the others'."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from ndpp_dense.cli.frameworks import framework_of, predictor_of
from ndpp_dense.integrations.registry import (
    FRAMEWORKS,
    format_names,
    framework,
    framework_of_config,
    framework_of_task,
    weight_formats,
)
from ndpp_dense.zoo import ZooError, ZooModel, load_index

ROOT = Path(__file__).resolve().parents[2]
RECORDS = pytest.mark.parametrize("record", FRAMEWORKS.values(), ids=list(FRAMEWORKS))
HOMES = {"detectron2": "detectron2", "mmseg": "mmseg", "imagenet": "timm"}  # folders in configs/


def row(name):
    return ZooModel("toy", 1, "a task", name, "toy", "data", "1 step", "MIT", "make toy")


@RECORDS
def test_everything_that_a_record_names_is_there(record):
    pytest.importorskip(record.packages[0], reason=f"{record.title} is not installed")
    zoo = record.load(record.zoo)
    assert all(callable(getattr(zoo, name)) for name in ("build_zoo_model", "evaluate_zoo_model", "run_blank"))
    assert callable(record.load(record.shift_subject))
    predictor = record.predictor and record.load(record.predictor)
    assert not predictor or all(callable(getattr(predictor, name)) for name in ("of_zoo", "of_run"))
    assert record.load(record.check)()[0].isdigit()
    for package in record.packages:
        import_module(package)


def test_the_registry_itself_needs_neither_a_framework_nor_torch():
    heavy = [package for record in FRAMEWORKS.values() for package in record.packages] + ["torch", "numpy"]
    code = (
        "import sys; from ndpp_dense.integrations import registry; registry.format_names(); "
        f"sys.exit(' '.join(m for m in {heavy!r} if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def test_formats_go_by_the_names_in_the_records():
    assert [form.name for form in weight_formats().values()] == format_names() == list(weight_formats())
    assert len(set(format_names())) == len(format_names()) >= 4


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*/*.[py]*")), ids=lambda path: path.stem)
def test_shipped_configs_are_known_by_what_they_hold(path, tmp_path):
    assert framework_of_config(path).name == HOMES[path.parent.name]
    elsewhere = tmp_path / path.name  # not by where they are
    elsewhere.write_text(path.read_text(encoding="utf-8"))
    assert framework_of_config(elsewhere).name == HOMES[path.parent.name]


def test_a_file_of_another_kind_is_no_config(tmp_path):
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ValueError, match=r"model.json is no config of Detectron2, .*must end in .py or .yaml"):
        framework_of_config(tmp_path / "model.json")


def test_rows_of_the_model_zoo_name_frameworks_that_there_are():
    assert {model.framework for model in load_index().models.values()} <= set(FRAMEWORKS)


@pytest.mark.parametrize(("name", "hint"), [("detectron", "Did you mean 'detectron2'"), ("keras", "Choices: detec")])
def test_unknown_names_are_refused_with_the_choices(name, hint):
    with pytest.raises(ValueError, match=f"no framework {name!r}.*{hint}"):
        framework(name)
    for lookup in (framework_of, predictor_of):
        with pytest.raises(ZooError, match=f"toy: no framework {name!r}.*{hint}"):
            lookup(row(name))


def test_a_framework_without_pictures_says_so():
    with pytest.raises(ZooError, match="toy is a backbone for a task: it makes no pictures"):
        predictor_of(row("timm"))


@RECORDS
def test_a_missing_framework_is_named_with_what_to_type(record, monkeypatch):
    import ndpp_dense.integrations.registry as registry

    def missing(name):
        raise ModuleNotFoundError(f"No module named {record.packages[-1]!r}", name=record.packages[-1])

    monkeypatch.setattr(registry, "import_module", missing)
    with pytest.raises(ZooError, match=f"toy: {record.title} is needed .*pip install.*ndpp doctor"):
        framework_of(row(record.name))


@RECORDS
def test_tasks_belong_to_one_framework(record):
    assert framework_of_task(record.shift_task) is record
