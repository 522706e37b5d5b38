"""The command starts without what it does not need, knows every command, and its scripts in tools/ are shims."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from ndpp_dense.cli import main
from ndpp_dense.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "detectron2", "mmengine", "mmcv", "timm", "torchvision", "matplotlib", "cv2", "sklearn")
SHIMS = {
    "train_net": "train-det",
    "train_seg": "train-seg",
    "pretrain": "pretrain",
    "convert_weights": "convert",
    "export_onnx": "export",
    "evaluate_shift": "shift",
    "evaluate_perceptual": "perceptual",
    "install_detectron2": "install-detectron2",
}


def modules_after(*lines):
    """The modules that a new process has after calls of the command."""
    calls = "\n".join(f"call({list(line)!r})" for line in lines)
    code = f"""
import contextlib, io, sys
from ndpp_dense.cli import main
def call(words):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(words)
{calls}
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(done.stdout.split())


def test_no_parser_needs_torch_or_a_framework():
    loaded = modules_after(["--help"], *([name, "--help"] for name in COMMANDS), ["zoo", "list", "--help"])
    assert not loaded & set(HEAVY)
    assert {f"ndpp_dense.cli.{module}" for module, _ in COMMANDS.values()} <= loaded


def test_the_zoo_is_shown_without_torch():
    loaded = modules_after(
        ["zoo", "list"], ["zoo", "info", "mask_rcnn_ndpp_demo"], ["zoo", "path", "mask_rcnn_ndpp_demo"]
    )
    assert "ndpp_dense.zoo.resolver" in loaded
    assert not loaded & {*HEAVY, "numpy"}


def test_help_loads_few_modules():
    loaded = modules_after(["--help"])
    assert len(loaded) < 130
    assert sorted(name for name in loaded if name.startswith("ndpp_dense.cli.")) == [
        f"ndpp_dense.cli.{name}" for name in ("errors", "main", "parsing", "warning_filters")
    ]


@pytest.mark.parametrize(("name", "command"), SHIMS.items())
def test_scripts_are_shims(name, command):
    source = (ROOT / "tools" / f"{name}.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 15
    assert f'main(["{command}", *sys.argv[1:]])' in source
    assert ast.get_docstring(ast.parse(source)) is not None


def test_a_shim_takes_the_words_of_its_command():
    words = [sys.executable, str(ROOT / "tools" / "train_net.py"), "--config-file", "nowhere", "--num-gpus", "0"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian-det"], "Did you mean train-det?"),
        (["train-det", "--config", "x", "--ouput", "y"], "Did you mean --output? `ndpp train-det --help`"),
        (["train-det"], "the following arguments are required: --config"),
        (["train-det", "--config", "x", "--device", "tpu"], "invalid choice: 'tpu' (choose from"),
        (["zoo", "lst"], "Did you mean list?"),
        (["pretrain", "--config", "x", "--data", "y", "--num-gpus", "two"], "--num-gpus: invalid int value: 'two'"),
        ([], "COMMAND"),
    ],
)
def test_a_wrong_word_ends_in_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert message in text
    assert text.startswith("error: ")
    assert text.count("\n") == 1


def test_options_stand_before_and_after_other_words(capsys):
    assert main(["convert", "--to", "timm", "nowhere.pth", "out.pth"]) == 2
    assert main(["convert", "nowhere.pth", "out.pth", "--to", "timm"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == second
    assert "nowhere.pth" in first


@pytest.mark.parametrize("words", [["--traceback", "zoo", "info", "gone"], ["zoo", "--traceback", "info", "gone"]])
def test_the_traceback_can_be_asked_for_anywhere(words):
    with pytest.raises(ValueError, match="gone"):
        main(words)


@pytest.mark.parametrize("command", ["train-det", "train-seg", "pretrain", "shift", "infer", "inspect", "compare"])
def test_a_folder_that_is_a_file_is_refused_before_anything_is_loaded(command, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    words = {
        "train-det": ["--config", "x", "--output"],
        "train-seg": ["--config", "x", "--work-dir"],
        "pretrain": ["--config", "x", "--data", "y", "--output"],
        "shift": ["--output"],
        "infer": ["x.png", "--weights", "y", "--output"],
        "inspect": ["x", "--output"],
        "compare": ["x", "--output"],
    }[command]
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        assert main([command, *words, str(place)]) == 2
        assert f"{words[-1]} {place}: {tmp_path / 'file'} is a file" in capsys.readouterr().err
    monkeypatch.setattr("os.access", lambda *_: False)
    assert main([command, *words, str(tmp_path / "new")]) == 2
    assert f"nothing can be written to {tmp_path}" in capsys.readouterr().err
