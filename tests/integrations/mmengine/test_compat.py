"""Owners of one name must be told apart, and packages found whatever setuptools has."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import pytest_timeout

pytest.importorskip("mmengine", reason="mmengine is not installed")

from ndpp_dense.integrations.mmengine import compat

pytestmark = pytest.mark.mmseg


def test_two_owners_of_one_name_are_named_with_the_command(monkeypatch):
    compat.check_distributions(compat.OWNERS)  # as it is here
    installed = {"mmengine": "0.10.7", "onedl-mmengine": "0.10.12"}

    def version(name):
        if name not in installed:
            raise compat.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(compat, "version", version)
    command = r"pip uninstall -y mmengine onedl-mmengine && pip install mmengine==0.10.7"
    with pytest.raises(ImportError, match=f"'mmengine'.*{command}"):
        compat.prepare_mmengine()


@pytest.fixture
def without_pkg_resources(monkeypatch):
    """As with setuptools 82 and later; undoes what is changed in MMEngine."""
    from mmengine import hub, utils
    from mmengine.config import config
    from mmengine.utils import package_utils

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name != "pkg_resources" and find_spec(name) or None)
    for module in (package_utils, utils, config, hub.hub):
        for name in ("get_installed_path", "is_installed"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, getattr(module, name))


def test_configs_of_an_installed_package_are_found(without_pkg_resources, tmp_path):
    """Upstream's or its maintained fork's, whose distribution has another name than the one that is looked for."""
    pytest.importorskip("mmseg", reason="mmsegmentation is not installed")
    from mmengine.config import Config

    compat.prepare_mmengine()
    (tmp_path / "a.py").write_text("_base_ = ['mmseg::_base_/models/fcn_r50-d8.py']\n")
    assert Config.fromfile(tmp_path / "a.py").model.type == "EncoderDecoder"


def test_paths_of_packages(monkeypatch):
    assert compat.get_installed_path("mmengine").endswith("mmengine")
    # A module beside the others.
    assert Path(compat.get_installed_path("pytest-timeout")) == Path(pytest_timeout.__file__).parent
    assert compat.is_installed("mmengine")
    assert not compat.is_installed("no_such_package")
    with pytest.raises(ModuleNotFoundError, match="no_such_package is not installed.*pip install"):
        compat.get_installed_path("no_such_package")
    monkeypatch.setattr(compat, "distribution", _no_distribution)
    assert compat.get_installed_path("mmsegmentation").endswith("mmseg")


def _no_distribution(name):
    raise compat.PackageNotFoundError(name)


def test_a_search_that_works_is_left_alone(without_pkg_resources, monkeypatch):
    from mmengine.config import config
    from mmengine.utils import package_utils

    def asking(package):
        import pkg_resources

        return pkg_resources

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(package_utils, "get_installed_path", asking)
    before = config.get_installed_path
    compat.mend_package_search()
    assert config.get_installed_path is before


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python has a distutils of its own before 3.12")
def test_distutils_is_found_where_setuptools_was_added_to_the_path(tmp_path):
    folder = Path(importlib.util.find_spec("setuptools").origin).parents[1]
    words = f"import sys; sys.path.append({str(folder)!r})\nimport ndpp_dense.integrations.mmengine, distutils.errors"
    environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    # -S: no path file runs, as from a folder that something else adds.
    subprocess.run([sys.executable, "-S", "-c", words], check=True, env=environment)
