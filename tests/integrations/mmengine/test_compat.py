"""Owners of one name must be told apart."""

import pytest

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
