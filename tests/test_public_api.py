import importlib
import subprocess
import sys

import pytest

import ndpp_dense


def test_dir_is_what_is_public():
    assert dir(ndpp_dense) == sorted(ndpp_dense.__all__)
    expected = {"WhiteningConfig", "calibrate_ndpp", "convert_to_ndpp", "fold_ndpp", "update_stats"}
    assert expected <= set(ndpp_dense.__all__)
    assert len(set(ndpp_dense.__all__)) == len(ndpp_dense.__all__)


@pytest.mark.parametrize("name", ndpp_dense.__all__)
def test_every_public_name_comes_from_its_home(name):
    value = getattr(ndpp_dense, name)
    if name != "__version__":
        home = importlib.import_module(ndpp_dense._HOMES[name])
        assert value is getattr(home, name)
        assert value.__doc__
    else:
        assert value.count(".") == 2


def test_an_unknown_name_lists_the_public_ones():
    with pytest.raises(AttributeError, match="no attribute 'convert_'. Public names: .*convert_to_ndpp"):
        ndpp_dense.convert_  # noqa: B018
    with pytest.raises(ImportError):
        importlib.import_module("ndpp_dense.convert_")


def test_nothing_is_imported_before_it_is_asked_for():
    code = "import sys, ndpp_dense; before = 'ndpp_dense.layers' in sys.modules; ndpp_dense.NDLinear; print(before, "
    code += "'ndpp_dense.layers' in sys.modules, 'ndpp_dense.conversion.convert' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "True", "False"]


@pytest.mark.parametrize(("former", "name"), ndpp_dense._RENAMED.items())
def test_former_names_warn_and_work(former, name):
    with pytest.warns(DeprecationWarning, match=rf"ndpp_dense\.{former} is now ndpp_dense\.{name}"):
        assert getattr(ndpp_dense, former) is getattr(ndpp_dense, name)
    assert former not in ndpp_dense.__all__


def test_former_names_are_those_of_accumulation():
    assert set(ndpp_dense._RENAMED) == {"portion_of_step", "portions_of_step"}
