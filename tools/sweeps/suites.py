"""The models of the sweep, by library."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn

from sweeps.check import Case
from sweeps.frameworks import detectron2_cases, mmseg_cases
from sweeps.inputs import fed, random_input
from sweeps.transformers_models import hugging_face_cases

__all__ = ["SUITES"]


_OTHER_WEIGHTS = ("adv", "ens", "gluon", "ig", "ssl", "swsl", "tf", "tv")  # of models that have names of their own
_SIZE_WORDS = (
    ("atto", "femto", "pico", "zepto", "nano", "xxs", "n0"),
    ("micro", "mini", "tiny", "xs", "t", "t0", "xt", "lite0", "050", "b0", "a0", "m0"),
    ("small", "s", "s0", "s1", "sm"),
    ("pretrained", "usual"),
    ("base", "b", "medium", "m", "m1"),
    ("large", "l", "huge", "h", "giant", "g", "xlarge", "xl", "gigantic", "enormous", "so400m", "so150m"),
)


def timm_cases() -> Iterator[Case]:
    """The smallest model of every family: of those of one module whose names begin with the same word."""
    from timm.models import _registry

    for _, names in sorted(_registry._module_to_models.items()):
        groups: dict[str, list[str]] = {}
        for name in sorted(names):
            word = re.match(r"[a-z]+", name)
            groups.setdefault(word[0] if word else name, []).append(name)
        for word, members in groups.items():
            if word in _OTHER_WEIGHTS:
                continue
            name = min(members, key=_size)
            yield Case("timm", name, partial(_timm_model, name), _run_timm)


def _size(name: str) -> tuple[int, int, str]:
    """Sorts names as sizes: by the words for small and large, then by the first number."""
    rank = next((i for i, words in enumerate(_SIZE_WORDS) if set(name.split("_")) & set(words)), len(_SIZE_WORDS) // 2)
    number = re.search(r"\d+", name)
    return rank, int(number[0]) if number else 0, name


def _timm_model(name: str) -> nn.Module:
    """Of two blocks where that can be said: transformers repeat one."""
    import timm

    try:
        return timm.create_model(name, num_classes=10, depth=2)
    except Exception:  # noqa: BLE001  (TypeError, or whatever a builder makes of it)
        return timm.create_model(name, num_classes=10)


def _run_timm(model: nn.Module) -> Any:
    config: Any = model.pretrained_cfg  # type: ignore[union-attr]
    channels, height, width = config["input_size"]
    small = [] if config.get("fixed_input_size") else [(2, channels, 64, 64), (2, channels, 128, 128)]
    return fed(model, *small, (2, channels, height, width))


def torchvision_cases() -> Iterator[Case]:
    """Every builder of classification, segmentation, detection and video."""
    import torchvision.models as tv

    for room, run in (
        (tv, _run_image),
        (tv.segmentation, _run_image),
        (tv.detection, _run_detector),
        (tv.video, _run_video),
    ):
        for name in tv.list_models(module=room):
            keys: dict[str, Any] = {"weights": None}
            if room in (tv.segmentation, tv.detection):
                keys["weights_backbone"] = None
            if room is tv.detection and "ssd" not in name:
                keys |= {"min_size": 128, "max_size": 128}
            if name in ("googlenet", "inception_v3"):
                keys |= {"init_weights": False}
            yield Case("torchvision", name, partial(tv.get_model, name, **keys), run)


def _run_image(model: nn.Module) -> Any:
    return fed(model, (2, 3, 64, 64), (2, 3, 96, 96), (2, 3, 224, 224), (2, 3, 299, 299))


def _run_detector(model: nn.Module) -> Any:
    return model([random_input(model, 3, 120, 128)])


def _run_video(model: nn.Module) -> Any:
    return fed(model, (1, 3, 4, 64, 64), (1, 3, 16, 64, 64), (1, 3, 16, 224, 224))


SUITES: dict[str, Callable[[], Iterator[Case]]] = {
    "timm": timm_cases,
    "torchvision": torchvision_cases,
    "detectron2": detectron2_cases,
    "mmseg": mmseg_cases,
    "huggingface": hugging_face_cases,
}
