import dataclasses

import pytest

from ndpp_dense import WhiteningConfig
from ndpp_dense.layers.config import preset


def test_all_faults_are_reported_together():
    with pytest.raises(ValueError, match="invalid values") as error:
        WhiteningConfig(
            block_size=0,
            block_size_spatial=2.5,
            block_size_linear=True,
            shared_blocks=1,
            local_scale="l2",
            scale_steps=-1,
            statistics="median",
            momentum=0.0,
            eps=float("inf"),
            solver="cholesky",
            num_iters=-1,
            grad="half",
            sampling_stride="3",
            sync=None,
            schedule="every=1",
        )
    for field in dataclasses.fields(WhiteningConfig):
        assert f" {field.name} = " in str(error.value)
    assert "'newton', 'quintic', 'eigh'" in str(error.value)
    assert "-1 (a whole number >= 1)" in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0, -1.0, "0.1", True])
@pytest.mark.parametrize("name", ["eps", "momentum"])
def test_numbers_out_of_range(name, value):
    if value is True and name == "momentum":
        value = None
    with pytest.raises(ValueError, match=f"{name} = "):
        WhiteningConfig(**{name: value})


def test_running_statistics_have_no_gradient():
    with pytest.raises(ValueError, match="grad = 'full' with statistics = 'ema'"):
        WhiteningConfig(statistics="ema", grad="full")


@pytest.mark.parametrize(
    "schedule",
    ["every", "every=", "every=0", "every=1", "every=2.5", "every=-2", "EVERY=2", "Stale", "stale,every=2", 4, None],
)
def test_schedules_that_are_none(schedule):
    with pytest.raises(ValueError, match="schedule = .*every=T"):
        WhiteningConfig(schedule=schedule)


def test_only_running_statistics_can_be_used_again():
    with pytest.raises(ValueError, match="schedule = 'every=2' with statistics = 'batch'") as error:
        WhiteningConfig(schedule="every=2", statistics="batch", eps=-1)
    assert "eps = -1" in str(error.value)
    with pytest.raises(ValueError, match="schedule = 'stale' with statistics = 'batch'"):
        WhiteningConfig(schedule="stale", statistics="batch")
    assert (WhiteningConfig(schedule="stale").period, WhiteningConfig(schedule="stale").update_momentum) == (1, 0.1)


def test_an_update_weighs_what_its_steps_would():
    assert WhiteningConfig(momentum=0.1).update_momentum == 0.1
    every = WhiteningConfig(momentum=0.1, schedule="every=12")
    assert (every.period, every.update_momentum) == (12, pytest.approx(1 - 0.9**12))


def test_presets():
    paper = WhiteningConfig.paper("coco")
    assert (paper.block_size, paper.block_size_linear, paper.shared_blocks) == (64, 256, True)
    assert (paper.statistics, paper.grad, paper.local_scale) == ("batch", "full", "l1")
    assert (paper.solver, paper.num_iters, paper.sampling_stride) == ("newton", 5, 5)
    assert WhiteningConfig.paper("imagenet").sampling_stride == 3
    assert WhiteningConfig.fast("cityscapes") == preset("fast", "cityscapes")
    assert WhiteningConfig.fast("imagenet") == WhiteningConfig()
    assert preset("paper", "coco") == paper


@pytest.mark.parametrize(
    ("name", "task", "near"), [("papper", "coco", "'paper'"), ("fast", "cityscape", "'cityscapes'"), ("x", "coco", "")]
)
def test_unknown_presets_and_tasks_name_the_nearest(name, task, near):
    with pytest.raises(ValueError, match="Choices: ") as error:
        preset(name, task)
    assert (f"Did you mean {near}?" if near else "Unknown preset 'x'. Choices") in str(error.value)


def test_override():
    config = WhiteningConfig.paper("coco").override({"BLOCK_SIZE": 8, "eps": 0.5})
    assert (config.block_size, config.eps, config.grad) == (8, 0.5, "full")
    with pytest.raises(ValueError, match="no field 'blok_size'. Did you mean 'block_size'"):
        config.override({"blok_size": 8})
    with pytest.raises(ValueError, match="eps = -1"):
        config.override({"eps": -1})


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        WhiteningConfig().eps = 1.0


def test_running_statistics_reach_back_equally_far_in_images():
    config = WhiteningConfig.fast()
    assert config.for_batch(4) == config.for_batch(8) == config
    assert config.for_batch(16).momentum == pytest.approx(1 - 0.9**2)
    assert config.for_batch(256).momentum == pytest.approx(1 - 0.9**32)
    assert WhiteningConfig.paper().for_batch(256) == WhiteningConfig.paper()


def test_what_follows_single_batches():
    assert WhiteningConfig.paper().follows_single_batches
    assert WhiteningConfig.fast().for_batch(256).follows_single_batches
    assert not WhiteningConfig.fast().for_batch(16).follows_single_batches


@pytest.mark.parametrize("size", [0, -5, 1.5, "8", True, None, float("nan")])
def test_a_batch_has_images(size):
    for config in (WhiteningConfig.fast(), WhiteningConfig.paper()):
        with pytest.raises(ValueError, match="batch_size = .*: it must be a whole number, at least 1"):
            config.for_batch(size)
