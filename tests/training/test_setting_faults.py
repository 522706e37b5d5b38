"""What third-party code raises over settings is told in words of the settings; faults of this package stay faults."""

import collections

import pytest
import torch

from ndpp_dense.layers import NDConv2d, WhiteningConfig
from ndpp_dense.training.setting_faults import faults_of_settings


def test_the_setting_with_the_value_is_named():
    settings = {"MODEL.NORM": "Nope", "MODEL.DEPTH": 50, "SOLVER.OTHER": "Nop", "A.SHORT": "N"}
    with (
        pytest.raises(
            ValueError, match=r"building failed: ValueError: .*'Nope'.*the value of MODEL\.NORM\. Correct it\."
        ),
        faults_of_settings("building", "Correct it.", settings),
    ):
        collections.namedtuple("Nope", ["Nope", "Nope"])


def test_layers_do_as_they_were_set_up():
    layer = NDConv2d(3, 4, 1, config=WhiteningConfig.fast("imagenet"))
    network = torch.nn.Sequential(layer)
    with (
        pytest.raises(ValueError, match="building failed: RuntimeError"),
        faults_of_settings("building", "Correct it."),
    ):
        network(torch.zeros(1, 5, 4, 4))


def test_a_fault_of_this_package_is_left_as_it_is():
    from ndpp_dense.config_files import find_config

    with pytest.raises(FileNotFoundError), faults_of_settings("building", "Correct it."):
        find_config("nowhere")
    with pytest.raises(TypeError), faults_of_settings("building", "Correct it."):
        find_config(3)  # pyright: ignore[reportArgumentType]


def test_memory_that_runs_out_is_no_fault_of_settings():
    with pytest.raises(torch.OutOfMemoryError), faults_of_settings("building", "Correct it."):
        raise torch.OutOfMemoryError("CUDA out of memory")
