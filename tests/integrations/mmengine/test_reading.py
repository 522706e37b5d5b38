"""Checkpoints that MMEngine reads: training logs come back, and nothing is executed."""

import os

import pytest
import torch

pytest.importorskip("mmengine", reason="MMEngine is not installed")

import exploits  # noqa: E402
from mmengine.logging import MessageHub  # noqa: E402
from mmengine.runner import CheckpointLoader, load_checkpoint  # noqa: E402
from torch import nn  # noqa: E402

from ndpp_dense.integrations.mmengine import reading  # noqa: E402  (checkpoints are read by it from here on)
from ndpp_dense.integrations.mmengine.checkpoint import newest_sound  # noqa: E402
from ndpp_dense.integrations.mmengine.setting_checks import read_file  # noqa: E402
from ndpp_dense.weights.files import WeightFileError, write_weights  # noqa: E402

pytestmark = pytest.mark.mmseg


def test_training_logs_come_back(tmp_path):
    hub = MessageHub.get_instance("test_reading")
    for value in (1.5, 2.5):
        hub.update_scalar("train/loss", value)
    torch.save({"state_dict": {}, "message_hub": hub.state_dict()}, tmp_path / "a.pth")
    found = CheckpointLoader.load_checkpoint(str(tmp_path / "a.pth"))["message_hub"]
    again = MessageHub.get_instance("test_reading_again")
    again.load_state_dict(found)
    log = again.get_scalar("train/loss")
    assert (log.current(), log.mean(), log.data[1].tolist()) == (2.5, 2.0, [1, 1])
    log.update(3.5)
    assert log.max() == 3.5


def test_a_log_that_is_none_is_refused(tmp_path):
    hub = MessageHub.get_instance("test_reading")
    hub.update_scalar("train/loss", 1.0)
    hub.log_scalars["train/loss"].max_length = "many"
    torch.save({"state_dict": {}, "message_hub": hub.state_dict()}, tmp_path / "a.pth")
    MessageHub._instance_dict.pop("test_reading")
    with pytest.raises(ValueError, match="a training log that is none"):
        reading.load_from_local(str(tmp_path / "a.pth"))


@pytest.mark.parametrize("make", exploits.TORCH, ids=lambda make: make.__name__)
def test_no_checkpoint_runs_code(tmp_path, make):
    make(tmp_path / "mark", tmp_path / "iter_1.pth")
    with pytest.raises(WeightFileError):
        load_checkpoint(nn.Linear(1, 1), str(tmp_path / "iter_1.pth"))
    with pytest.raises(ValueError, match="it asks for|a program"):
        newest_sound(tmp_path)
    assert not (tmp_path / "mark").exists()


def test_a_config_in_a_checkpoint_is_left_out(tmp_path):
    """A Runner that resumes evaluates it as a Python file."""
    code = f"import os\nos.mkdir({str(tmp_path / 'mark')!r})"
    torch.save({"state_dict": {"w": torch.ones(1)}, "meta": {"config": code, "iter": 3}}, tmp_path / "a.pth")
    found = CheckpointLoader.load_checkpoint(str(tmp_path / "a.pth"))
    assert found["meta"] == {"iter": 3}


def test_safetensors_are_weights_too(tmp_path):
    write_weights(tmp_path / "a.safetensors", nn.Linear(2, 1).state_dict(), "", {})
    model = nn.Linear(2, 1)
    load_checkpoint(model, str(tmp_path / "a.safetensors"), strict=True)
    (tmp_path / "b.safetensors").write_bytes(b"not one")
    with pytest.raises(WeightFileError, match="b.safetensors"):
        load_checkpoint(model, str(tmp_path / "b.safetensors"))


def test_a_pipe_or_folder_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(WeightFileError, match="it is a pipe"):
        load_checkpoint(nn.Linear(1, 1), str(tmp_path / "pipe.pth"))
    with pytest.raises(WeightFileError, match="it is a folder"):
        load_checkpoint(nn.Linear(1, 1), str(tmp_path))


@pytest.mark.parametrize(
    "place",
    ["s3://bucket/x.pth", "petrel://x", "cluster:s3://bucket/x", "pavi://x", "torchvision://resnet50"]
    + ["modelzoo://resnet50", "open-mmlab://resnet50", "openmmlab://x", "mmcls://x", "s3://key:s3cret@bucket/x"],
)  # fmt: skip
def test_places_that_mmengine_reads_by_itself_are_refused(place):
    with pytest.raises(ValueError, match="checkpoints are read from files") as caught:
        CheckpointLoader.load_checkpoint(place)
    assert "s3cret" not in str(caught.value)


def test_addresses_are_read_without_running_code(tmp_path, monkeypatch):
    fetched = []

    def local_copy(address):
        fetched.append(address)
        return exploits.saved(tmp_path / "mark", tmp_path / "a.pth")

    monkeypatch.setattr(reading, "local_copy", local_copy)
    with pytest.raises(WeightFileError, match="it asks for"):
        load_checkpoint(nn.Linear(1, 1), "https://example.org/a.pth")
    assert fetched == ["https://example.org/a.pth"]
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["a.yaml", "a.yml"])
def test_yaml_is_plain_data(tmp_path, name):
    file = tmp_path / name
    file.write_text("model:\n  type: x\n  depth: 18\n")
    assert read_file(file).model.depth == 18
    file.write_text(f"model:\n  depth: !!python/object/apply:os.mkdir ['{tmp_path / 'mark'}']\n")
    with pytest.raises(ValueError, match=rf"{name}, line 2: the tag !!python/object/apply:os.mkdir is refused"):
        read_file(file)
    assert not (tmp_path / "mark").exists()
