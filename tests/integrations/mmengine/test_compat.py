"""What MMEngine's checkpoints need must be allowed, and no more; owners of one name must be told apart."""

import io
import pickle

import pytest
import torch

pytest.importorskip("mmengine", reason="mmengine is not installed")

from ndpp_dense.integrations.mmengine import compat

pytestmark = pytest.mark.mmseg


@pytest.fixture
def without_safe_globals():
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


def training_log():
    from mmengine.logging import MessageHub

    hub = MessageHub.get_instance("test_compat")
    hub.update_scalar("train/loss", 1.5)
    hub.update_scalar("train/acc", torch.tensor(2.0))
    file = io.BytesIO()
    torch.save({"message_hub": hub.state_dict()}, file)
    file.seek(0)
    return file


@pytest.mark.usefixtures("without_safe_globals")
def test_checkpoints_of_mmengine_load_safely_only_through_the_shim():
    file = training_log()
    with pytest.raises(pickle.UnpicklingError, match="Unsupported global"):
        torch.load(file)
    compat.allow_checkpoint_classes()
    file.seek(0)
    scalars = torch.load(file)["message_hub"]["log_scalars"]
    assert scalars["train/loss"].current() == 1.5


class Attack:
    def __reduce__(self):
        return getattr, (dict, "update")


@pytest.mark.usefixtures("without_safe_globals")
def test_other_code_in_a_checkpoint_stays_refused():
    compat.allow_checkpoint_classes()
    file = io.BytesIO()
    torch.save(Attack(), file)
    file.seek(0)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(file)


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
