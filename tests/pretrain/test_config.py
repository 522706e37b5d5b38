"""Faulty settings are reported together, before anything starts."""

import pytest

from ndpp_dense.pretrain.config import PretrainConfig
from ndpp_dense.pretrain.run import scaled


def test_the_defaults_are_sound():
    config = PretrainConfig()
    assert (config.name, config.epochs, config.batch_size, config.lr) == ("resnet50", 90, 256, 0.1)


def test_all_faults_are_reported_together():
    with pytest.raises(ValueError, match="faults") as error:
        PretrainConfig(epochs=0, lr=-1.0, crop_pct=1.5)
    with pytest.raises(ValueError, match="faults") as more:
        PretrainConfig(schedule="cosin", optimizer="momentun", ndpp={"epss": 1})
    said = f"{error.value} {more.value}"
    assert "\n" not in said
    for part in (
        "epochs is 0, it must be a whole number, at least 1",
        "lr is -1.0, it must be a finite number, above 0",
        "schedule is 'cosin', it must be one of 'cosine'",
        "optimizer is 'momentun', it must be one of 'momentum'",
        "crop_pct is 1.5",
        "Did you mean 'eps'",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"epochs": "90"}, "epochs is '90', it must be a whole number"),
        ({"epochs": True}, "epochs is True"),
        ({"lr": float("nan")}, "lr is nan, it must be a finite number, above 0"),
        ({"crop_scale": (0.1,)}, "crop_scale"),
        ({"crop_scale": (0.5, 0.1)}, "the smaller first"),
        ({"ndpp": "fast"}, "ndpp is 'fast', it must be dict | None"),
        ({"batch_size": 10, "accumulation": 4}, "does not split into accumulation = 4"),
        ({"epochs": 5, "warmup_epochs": 5}, "leaves nothing"),
        ({"optimizer": "sgd", "momentum": 0.0}, "use optimizer 'momentum'"),
        ({"auto_augment": "ramd-m9"}, "auto_augment is 'ramd'"),
        ({"amp": "fp16"}, "'float16'"),
        ({"num_classes": 1}, "at least 2"),
        ({"momentum": 1.0}, "momentum is 1.0, it must be a finite number, at least 0 and below 1"),
        ({"weight_decay": -1e-4}, "weight_decay is -0.0001"),
        ({"decay_rate": 3.0}, "decay_rate is 3.0"),
        ({"erasing": 2.0}, "erasing is 2.0"),
        ({"crop_scale": (0.1, float("nan"))}, "crop_scale"),
        ({"workers": None}, "workers is None"),
        ({"seed": 2**40}, "seed is 1099511627776"),
    ],
)
def test_each_fault_is_seen(settings, part):
    with pytest.raises(ValueError, match="faults") as error:
        PretrainConfig(**settings)
    assert part in str(error.value)


def test_every_number_has_a_range():
    from ndpp_dense.pretrain import config

    numbers = [name for name, kind in config.field_types().items() if kind in (int, float, int | None, float | None)]
    assert sorted(numbers) == sorted(config._RANGES)


def test_gradients_in_float16_are_refused(tiny):
    with pytest.raises(ValueError, match="gradient compression in float16: sums over ranks overflow"):
        tiny(grad_compression="float16")
    assert tiny(grad_compression="bfloat16").grad_compression == "bfloat16"


def test_settings_for_other_numbers_of_processes(tiny):
    config = scaled(tiny(batch_size=16, lr=0.4, workers=0), 4)
    assert (config.batch_size, config.lr, config.workers) == (4, 0.1, 0)
