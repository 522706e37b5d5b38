"""The kit of wheels: what it must hold, and how large it may be."""

import ast
import importlib.util
import sys
import zipfile

import gpu_kit
import pytest


def _wheel(folder, name, *requires, size=0):
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        lines = [f"Metadata-Version: 2.1\nName: {name}", *(f"Requires-Dist: {line}" for line in requires)]
        archive.writestr(f"{name}-1.0.dist-info/METADATA", "\n".join(lines) + "\n")
        archive.writestr("filler", bytes(size))
    return path


def test_a_requirement_that_is_named_nowhere_is_an_error(tmp_path):
    _wheel(tmp_path, "fvcore", "numpy", "yacs>=0.1.6", "opencv-python", 'tomli; python_version < "3.11"')
    _wheel(tmp_path, "yacs", "PyYAML", 'pytest; extra == "tests"')
    gpu_kit.check(tmp_path)
    _wheel(tmp_path, "mmengine", "addict", 'regex; sys_platform == "win32"', 'rich; sys_platform == "linux"')
    with pytest.raises(gpu_kit.InstallError, match=r"^mmengine needs addict; mmengine needs rich: name it in WHEELS"):
        gpu_kit.check(tmp_path)


@pytest.mark.parametrize(("most", "tracked"), [("LARGEST_KIT", 0.0), ("LARGEST_ALL", 59.99)])
def test_a_kit_that_is_too_large_is_an_error(most, tracked, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_kit, "LARGEST_KIT", 0.05 if most == "LARGEST_KIT" else 28)
    kit = gpu_kit.sizes(tmp_path)[0]
    monkeypatch.setattr(gpu_kit, "sizes", lambda folder: (kit + 0.1, tracked))
    _wheel(tmp_path, "yacs", size=100_000)
    with pytest.raises(gpu_kit.InstallError, match="The largest: yacs-1.0"):
        gpu_kit.check(tmp_path)


def test_new_wheels_take_the_place_of_old_ones(tmp_path, monkeypatch, capsys):
    output = tmp_path / ".whl"
    output.mkdir()
    (output / "yacs-0.9-py3-none-any.whl").write_bytes(b"old")
    (output / "note.txt").write_text("mine")
    monkeypatch.setattr(gpu_kit, "collect", lambda folder: _wheel(folder, "yacs"))
    gpu_kit.main(["--output", str(output)])
    assert sorted(path.name for path in output.iterdir()) == ["note.txt", "yacs-1.0-py3-none-any.whl"]
    assert "1 wheels in .whl: 0.0 MiB; with the files that git tracks" in capsys.readouterr().out


def test_what_pip_says_reaches_the_reader_and_the_old_kit_stays(tmp_path, monkeypatch, capsys):
    output = tmp_path / ".whl"
    output.mkdir()
    (output / "yacs-0.9-py3-none-any.whl").write_bytes(b"old")
    monkeypatch.setattr(gpu_kit, "WHEELS", ("no such name",))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SystemExit) as error:
        gpu_kit.main(["--output", str(output)])
    assert error.value.code == 2
    assert "pip download failed" in capsys.readouterr().err
    assert [path.name for path in output.iterdir()] == ["yacs-0.9-py3-none-any.whl"]


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.split(".")[0]


MODULES = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml", "mmcv": "mmcv-lite", "mmseg": "mmsegmentation"}
MODULES |= {"cv2": "opencv-python"}
# Of functions that no part of the report calls: export, peers of a metric, data of other layouts.
NOT_MEASURED = {"onnx", "onnxruntime", "onnxscript", "lpips", "DISTS_pytorch"}


def test_what_the_package_and_its_measurements_import_is_present_or_in_the_kit():
    files = [*(gpu_kit.ROOT / "ndpp_dense").rglob("*.py"), *(gpu_kit.ROOT / "tools" / "bench").rglob("*.py")]
    own = {"ndpp_dense", "bench", "records", "detectron2"}
    names = {name for path in files for name in _imports(path)} - own - NOT_MEASURED - set(sys.stdlib_module_names)
    have = {*gpu_kit.PRESENT, *gpu_kit.WHEELS, *gpu_kit.ARCHIVES, *gpu_kit.STANDS_IN}
    assert {name for name in names if MODULES.get(name, name).replace("_", "-") not in have} == set()


def test_the_stand_in_for_opencv_gives_constants_and_no_functions():
    path = gpu_kit.ROOT / "tools" / "bench" / "stand_ins" / "cv2.py"
    spec = importlib.util.spec_from_file_location("stand_in", path)
    stand_in = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stand_in)
    assert stand_in.INTER_LINEAR == 0
    assert int(stand_in.__version__.split(".")[0]) == 0  # Detectron2 configures real ones
    with pytest.raises(ImportError, match="cv2.imread was called, but OpenCV is not installed"):
        stand_in.imread("file")
    assert not hasattr(stand_in, "__path__")
