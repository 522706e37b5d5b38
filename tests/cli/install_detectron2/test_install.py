import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from ndpp_dense.cli import main
from ndpp_dense.cli.install_detectron2 import install as script
from ndpp_dense.cli.install_detectron2 import sources

ROOT = Path(__file__).resolve().parents[3]
COMMIT = ("commit", "-q", "--allow-empty", "-m", "a")

PYTHON = {
    "detectron2/__init__.py": '__version__ = "0.6"\n',
    "detectron2/model_zoo/__init__.py": "import pkg_resources\n\nwhere = pkg_resources.resource_filename\n",
    "detectron2/data/__init__.py": "import numpy as np\n\nkind = np.bool\n",
    "detectron2/engine/__init__.py": "",
    "detectron2/evaluation/__init__.py": "from detectron2 import _C\n",
    "detectron2/modeling/__init__.py": "",
    "configs/Base.yaml": "VERSION: 2\n",
    "projects/DeepLab/deeplab/__init__.py": "import numpy as np\n\nkind = np.float\n",
    "LICENSE": "a licence\n",
}


@pytest.fixture
def archive(tmp_path):
    """A small archive of the release's layout."""
    path = tmp_path / "small-0.6.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, text in PYTHON.items():
            info = tarfile.TarInfo(f"small-0.6/{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """An empty environment with a pip of its own."""
    folder = tmp_path_factory.mktemp("bare") / "env"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    return folder / "bin" / "python"


@pytest.fixture
def checkout(tmp_path):
    """A small clone of later sources, built once: with compiled ops, and a link that the build left."""
    for name, text in {**PYTHON, "detectron2/tracking/__init__.py": ""}.items():
        (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clone" / name).write_text(text)
    package = tmp_path / "clone" / "detectron2"
    (package / "_C.cpython-311-x86_64-linux-gnu.so").write_bytes(b"not for every Python")
    (package / "layers" / "csrc").mkdir(parents=True)
    (package / "layers" / "csrc" / "vision.cpp").write_text("")
    (package / "model_zoo" / "configs").symlink_to(tmp_path / "clone" / "configs")
    return tmp_path / "clone"


def _run(python, archive, tmp_path, *words):
    """Run the script in the environment of ``python``, with the hash of ``archive`` as the known one."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    words = words or ("--sdist", str(archive))
    # The sample needs neither torch nor NumPy: the stand-ins keep this test offline and fast.
    stubs = tmp_path / "stubs"
    stubs.mkdir(exist_ok=True)
    (stubs / "numpy.py").write_text("")
    (stubs / "torch.py").write_text(
        "class library:\n    class Library:\n        def __init__(self, *args): pass\n"
        "        define = impl = __init__\n"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from ndpp_dense.cli.install_detectron2 import install as script\nfrom ndpp_dense.cli import main\n"
        f"script.check_hash.__defaults__ = ({digest!r},)\n"
        f"raise SystemExit(main(['install-detectron2', *{words!r}]))\n"
    )
    command = [str(python), "-c", code]
    environment = {"PYTHONPATH": str(stubs), "PATH": os.environ["PATH"], "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")  # newer ones, which know them, want one
def test_an_archive_is_unpacked_where_python_knows_no_filters(archive, tmp_path, monkeypatch):
    """Debian 12 has Python 3.11.2."""
    plain = tarfile.TarFile.extractall
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    monkeypatch.setattr(tarfile.TarFile, "extractall", lambda self, path: plain(self, path))
    top = sources.unpack(archive, tmp_path / "unpacked")
    assert (top / "detectron2" / "model_zoo" / "configs" / "Base.yaml").is_file()


def test_installs_lists_is_idempotent_and_removes(archive, bare_python, tmp_path):
    first = _run(bare_python, archive, tmp_path)
    assert first.returncode == 0, first.stdout + first.stderr
    for line in ("np alias -> builtin: 2", "_C.py: placeholder", "compiled ops: no", "use_fast_impl", "nms_rotated"):
        assert line in first.stdout

    look = (
        "import importlib.metadata as m, pathlib, detectron2; d = m.distribution('detectron2'); "
        "p = pathlib.Path(detectron2.__file__).parent; "
        "assert 'kind = float' in (p / 'projects/deeplab/__init__.py').read_text(); "
        "print(d.version, d.read_text('LICENSE').strip(), (p / 'model_zoo/configs/Base.yaml').exists())"
    )
    seen = subprocess.run([str(bare_python), "-c", look], capture_output=True, text=True, check=False)
    assert seen.stdout.strip() == "0.6 a licence True", seen.stderr

    second = _run(bare_python, archive, tmp_path)
    assert second.returncode == 0, second.stderr
    assert "not found" not in second.stdout
    assert "Detectron2 0.6 at" in second.stdout

    command = [str(bare_python), "-m", "pip", "uninstall", "--yes", "--quiet", "detectron2"]
    subprocess.run(command, check=True, capture_output=True)
    assert script.find_installed(str(bare_python)) is None


def test_a_checkout_is_installed_and_named(checkout, archive, bare_python, tmp_path):
    for words in (["init", "-q"], ["-c", "user.name=a", "-c", "user.email=b", *COMMIT]):
        subprocess.run(["git", "-C", str(checkout), *words], check=True)
    before = sorted(path.name for path in checkout.rglob("*") if ".git" not in path.parts)
    first = _run(bare_python, archive, tmp_path, "--source", str(checkout))
    assert first.returncode == 0, first.stdout + first.stderr
    assert "Detectron2 0.6 (later source) at" in first.stdout
    assert sorted(path.name for path in checkout.rglob("*") if ".git" not in path.parts) == before
    look = (
        "import importlib.metadata as m, pathlib, detectron2; p = pathlib.Path(detectron2.__file__).parent; "
        "print(m.version('detectron2'), (p / 'model_zoo/configs/Base.yaml').exists(), "
        "*sorted(f.name for f in p.rglob('*') if f.suffix in ('.so', '.cpp')))"
    )
    seen = subprocess.run([str(bare_python), "-c", look], capture_output=True, text=True, check=False)
    assert re.fullmatch(r"0\.6\+g[0-9a-f]{8} True\n", seen.stdout), seen.stdout + seen.stderr

    again = _run(bare_python, archive, tmp_path, "--source", str(checkout))
    assert again.returncode == 0, again.stderr  # it is there already
    (checkout / "detectron2" / "__init__.py").write_text('__version__ = "0.7"\n')
    other = _run(bare_python, archive, tmp_path, "--source", str(checkout))
    assert other.returncode == 2
    assert "pip uninstall -y detectron2 first" in other.stderr
    command = [str(bare_python), "-m", "pip", "uninstall", "--yes", "--quiet", "detectron2"]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "is missing or names no version"), ("x = 1\n", "names no version"), ('__version__ = "0.5"\n', "git pull")],
)
def test_what_is_no_checkout_is_named(tmp_path, text, message, capsys):
    (tmp_path / "detectron2").mkdir()
    if text is not None:
        (tmp_path / "detectron2" / "__init__.py").write_text(text)
    assert main(["install-detectron2", "--source", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"--source {tmp_path} is" in error
    assert message in error


def test_a_wrong_hash_stops_before_anything_is_installed(archive, monkeypatch, capsys):
    monkeypatch.setattr(script, "find_installed", lambda: None)
    monkeypatch.setattr(script, "install", lambda *_: pytest.fail("went on with a wrong archive"))
    assert main(["install-detectron2", "--sdist", str(archive)]) == 2
    message = capsys.readouterr().err
    assert script.SHA256 in message
    assert hashlib.sha256(archive.read_bytes()).hexdigest() in message
    assert "Nothing was installed" in message
    assert "Next:" in message


@pytest.mark.parametrize(("ops", "noted"), [(True, False), (False, True)])
def test_an_installed_one_is_used_as_it_is(ops, noted, monkeypatch, capsys):
    monkeypatch.setattr(script, "find_installed", lambda: ("0.6+cu128", "somewhere/detectron2", ops))
    monkeypatch.setattr(script, "download", lambda *_: pytest.fail("downloaded without need"))
    assert main(["install-detectron2"]) == 0
    text = capsys.readouterr().out
    assert "Detectron2 0.6+cu128 at somewhere/detectron2" in text
    assert ("not available without compiled ops" in text) == noted


def _fake_detectron2(folder, version, broken=""):
    for name in ("", "data", "engine", "evaluation", "modeling"):
        (folder / "detectron2" / name).mkdir(parents=True, exist_ok=True)
        (folder / "detectron2" / name / "__init__.py").write_text(f"__version__ = {version!r}\n{broken}\n")


def test_an_old_one_is_named(tmp_path, monkeypatch):
    _fake_detectron2(tmp_path, "0.5")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(script.InstallError, match=r"Detectron2 0\.5 at .* 0\.6 or newer"):
        script.find_installed()


def test_one_that_fails_to_import_is_named_with_its_reason(tmp_path, monkeypatch):
    _fake_detectron2(tmp_path, "0.6", "import no_such_requirement")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(script.InstallError, match="no_such_requirement.*requirements"):
        script.find_installed()


def test_what_pip_says_reaches_the_reader(tmp_path, monkeypatch):
    refused = subprocess.CompletedProcess([], 1, "", "WARNING: noise\nERROR: no such archive\n")
    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: refused)
    with pytest.raises(script.InstallError, match=r"no such archive[\s\S]*--sdist FILE[\s\S]*own Detectron2"):
        script.download(tmp_path)
