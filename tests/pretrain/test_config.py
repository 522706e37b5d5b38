"""Faulty settings are reported together, before anything starts."""

import pytest

from ndpp_dense.pretrain.config import PretrainConfig
from ndpp_dense.pretrain.run import scaled


def test_the_defaults_are_sound():
    config = PretrainConfig()
    assert (config.name, config.epochs, config.batch_size, config.lr) == ("resnet50", 90, 256, 0.1)


def test_all_faults_are_reported_together():
    with pytest.raises(ValueError, match="faults") as error:
        PretrainConfig(epochs=0, lr=-1.0, schedule="cosin", optimizer="momentun", crop_pct=1.5, ndpp={"epss": 1})
    for part in (
        "epochs = 0: it must be >= 1",
        "lr = -1.0: it must be > 0",
        "schedule = 'cosin': it must be one of 'cosine'",
        "optimizer = 'momentun': it must be one of 'momentum'",
        "crop_pct = 1.5",
        "Did you mean 'eps'",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"epochs": "90"}, "epochs = '90': it must be int"),
        ({"epochs": True}, "epochs = True"),
        ({"lr": float("nan")}, "lr = nan"),
        ({"crop_scale": (0.1,)}, "crop_scale"),
        ({"crop_scale": (0.5, 0.1)}, "the smaller first"),
        ({"ndpp": "fast"}, "ndpp = 'fast': it must be dict | None"),
        ({"batch_size": 10, "accumulation": 4}, "does not split into accumulation = 4"),
        ({"epochs": 5, "warmup_epochs": 5}, "leaves nothing"),
        ({"optimizer": "sgd", "momentum": 0.0}, "use optimizer 'momentum'"),
        ({"auto_augment": "ramd-m9"}, "auto_augment = 'ramd'"),
        ({"amp": "fp16"}, "'float16'"),
        ({"num_classes": 1}, ">= 2"),
    ],
)
def test_each_fault_is_seen(settings, part):
    with pytest.raises(ValueError, match="faults") as error:
        PretrainConfig(**settings)
    assert part in str(error.value)


def test_gradients_in_float16_are_refused(tiny):
    with pytest.raises(ValueError, match="gradient compression in float16: sums over ranks overflow"):
        tiny(grad_compression="float16")
    assert tiny(grad_compression="bfloat16").grad_compression == "bfloat16"


def test_settings_for_other_numbers_of_processes(tiny):
    config = scaled(tiny(batch_size=16, lr=0.4, workers=0), 4)
    assert (config.batch_size, config.lr, config.workers) == (4, 0.1, 0)
