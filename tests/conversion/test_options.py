"""The ``ndpp`` section of a config becomes what the conversion takes, or a message."""

import pytest

from ndpp_dense import WhiteningConfig
from ndpp_dense.conversion.options import read_options, whitening_config


def test_an_empty_section_is_the_fast_preset_of_the_task():
    for values in (None, {}, {"rules": None, "eps": None}):
        options = read_options(values, "coco")
        assert (options.config, options.rules, options.verify) == (WhiteningConfig.fast("coco"), {}, True)


def test_every_key_is_read():
    values = {"preset": "paper", "task": "imagenet", "eps": 0.5, "rules": {"fc": {"num_iters": 3}}, "verify": False}
    options = read_options(values, "coco")
    assert options.config == WhiteningConfig.paper("imagenet").override({"eps": 0.5})
    assert options.rules == {"fc": {"num_iters": 3}}
    assert options.verify is False


def test_unknown_keys_name_the_nearest():
    with pytest.raises(ValueError, match="no key 'presett'. Did you mean 'preset'"):
        read_options({"presett": "paper"}, "coco")
    read_options({"mine": 1}, "coco", also=("mine",))


def test_other_keys_are_passed_over_where_only_the_whitening_is_read():
    assert whitening_config({"eps": 0.5, "kernel_size": 3}, "coco") == WhiteningConfig.fast("coco").override(
        {"eps": 0.5}
    )


def test_a_schedule_is_read():
    assert read_options({"schedule": "every=4"}, "coco").config.period == 4
