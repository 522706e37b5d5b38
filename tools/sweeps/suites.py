"""The models of the sweep, by library."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sweeps.check import Case

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


def _fed(model: nn.Module, *sizes: tuple[int, ...]) -> Any:
    """The output for the first of these input shapes that the model takes."""
    for index, shape in enumerate(sizes):
        try:
            return model(_random(model, *shape))
        except Exception:
            if index == len(sizes) - 1:
                raise
    return None


def _random(model: nn.Module, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    return torch.rand(shape, generator=generator).to(dtype)


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
    return _fed(model, *small, (2, channels, height, width))


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
    return _fed(model, (2, 3, 64, 64), (2, 3, 96, 96), (2, 3, 224, 224), (2, 3, 299, 299))


def _run_detector(model: nn.Module) -> Any:
    return model([_random(model, 3, 120, 128)])


def _run_video(model: nn.Module) -> Any:
    return _fed(model, (1, 3, 4, 64, 64), (1, 3, 16, 64, 64), (1, 3, 16, 224, 224))


def detectron2_cases() -> Iterator[Case]:
    """Every config of the model zoo; those that need a compiled operation say so when they run."""
    import detectron2.model_zoo as zoo

    folder = Path(zoo.__file__).parent / "configs"
    for path in sorted(folder.rglob("*.yaml")):
        name = path.relative_to(folder).as_posix()
        if "Base" not in name:
            yield Case("Detectron2", name, partial(_detectron2_model, name), _run_detectron2)


def _detectron2_model(name: str) -> nn.Module:
    from detectron2 import model_zoo
    from detectron2.modeling import build_model

    config = model_zoo.get_config(name)
    config.MODEL.DEVICE = "cpu"
    config.MODEL.WEIGHTS = ""
    return build_model(config)


def _run_detectron2(model: nn.Module) -> Any:
    image = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(1)) * 255
    dtype = next(model.parameters()).dtype
    batch = [{"image": image.to(dtype), "height": 128, "width": 128}]
    if "proposal_generator" in vars(model).get("_modules", {}) and model.proposal_generator is None:
        from detectron2.structures import Boxes, Instances

        boxes = torch.tensor([[0.0, 0.0, 100.0, 100.0], [20.0, 30.0, 60.0, 90.0]]).to(dtype)
        proposals = Instances((128, 128), proposal_boxes=Boxes(boxes), objectness_logits=torch.ones(2).to(dtype))
        batch[0]["proposals"] = proposals
    return model(batch)


def mmseg_cases() -> Iterator[Case]:
    """One config for every pair of backbone and head (and their depths and classes aside) of the packaged ones."""
    import mmseg
    from mmengine.config import Config

    import ndpp_dense.integrations.mmseg  # noqa: F401  (lets mmseg be imported without compiled operations)

    folder = Path(mmseg.__file__).parent / ".mim" / "configs"
    seen: set[tuple[str, ...]] = set()
    for path in sorted(folder.glob("*/*.py")):
        if path.parent.name == "_base_":
            continue
        name = path.relative_to(folder).as_posix()
        try:
            model = Config.fromfile(path, import_custom_modules=False).model
        except Exception as error:  # noqa: BLE001
            yield Case("MMSegmentation", name, partial(_raise, error), lambda model: None)
            continue
        key = _architecture(model)
        if key not in seen:
            seen.add(key)
            yield Case("MMSegmentation", name, partial(_mmseg_model, model), _run_mmseg)


def _raise(error: Exception) -> nn.Module:
    raise error


def _architecture(model: Any) -> tuple[str, ...]:
    heads = [model.get("decode_head"), model.get("auxiliary_head"), model.get("neck")]
    parts = [part for head in heads if head for part in (head if isinstance(head, list) else [head])]
    return (str(model.type), str((model.get("backbone") or {}).get("type")), *(str(part.get("type")) for part in parts))


def _mmseg_model(config: Any) -> nn.Module:
    from mmengine.model import revert_sync_batchnorm
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules()
    config = config.copy()
    config["pretrained"] = None
    if (config.get("backbone") or {}).get("depth") == 101:  # the same blocks
        config["backbone"]["depth"] = 50
    return revert_sync_batchnorm(MODELS.build(config))


def _run_mmseg(model: nn.Module) -> Any:
    for index, size in enumerate((64, 128, 512)):
        try:
            return _mmseg_loss(model, size)
        except Exception:
            if index == 2:
                raise
    return None


def _mmseg_loss(model: nn.Module, size: int) -> Any:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    labels = torch.randint(0, 2, (1, size, size), generator=torch.Generator().manual_seed(1))
    sample = SegDataSample(gt_sem_seg=PixelData(data=labels))
    sample.set_metainfo({"img_shape": (size, size), "pad_shape": (size, size)})
    return model(_random(model, 1, 3, size, size), [sample], mode="loss")


_HUGGING_FACE: dict[str, dict[str, Any]] = {
    "ViTForImageClassification": {"num_hidden_layers": 2},
    "DeiTForImageClassification": {"num_hidden_layers": 2},
    "BeitForImageClassification": {"num_hidden_layers": 2},
    "Dinov2ForImageClassification": {"num_hidden_layers": 2},
    "SwinForImageClassification": {},
    "Swinv2ForImageClassification": {},
    "ConvNextForImageClassification": {},
    "ConvNextV2ForImageClassification": {},
    "ResNetForImageClassification": {},
    "RegNetForImageClassification": {},
    "MobileNetV1ForImageClassification": {},
    "MobileNetV2ForImageClassification": {},
    "MobileViTForImageClassification": {},
    "MobileViTV2ForImageClassification": {},
    "SegformerForSemanticSegmentation": {},
    "LevitForImageClassification": {},
    "PvtForImageClassification": {},
    "PvtV2ForImageClassification": {},
    "CvtForImageClassification": {},
    "FocalNetForImageClassification": {},
    "PoolFormerForImageClassification": {},
    "EfficientNetForImageClassification": {},
    "BitForImageClassification": {},
    "HieraForImageClassification": {},
    "DPTForSemanticSegmentation": {"num_hidden_layers": 12},
    "UperNetForSemanticSegmentation": {},
    "YolosForObjectDetection": {"num_hidden_layers": 2},
    "DetrForObjectDetection": {"use_pretrained_backbone": False},
    "ConditionalDetrForObjectDetection": {"use_pretrained_backbone": False},
    "DeformableDetrForObjectDetection": {"use_pretrained_backbone": False},
    "Mask2FormerForUniversalSegmentation": {},
    "MaskFormerForInstanceSegmentation": {},
    "GLPNForDepthEstimation": {},
    "SuperPointForKeypointDetection": {},
}


def hugging_face_cases() -> Iterator[Case]:
    """Vision models of `transformers`, built from their default configs."""
    import transformers

    for name, changes in _HUGGING_FACE.items():
        kind: Callable[..., Any] = getattr(transformers, name)
        yield Case("Hugging Face", name, partial(_hugging_face_model, kind, changes), _run_hugging_face)


def _hugging_face_model(kind: Any, changes: dict[str, Any]) -> nn.Module:
    return kind(kind.config_class(**changes))


def _run_hugging_face(model: nn.Module) -> Any:
    size: Any = getattr(model.config, "image_size", 0) or 224  # type: ignore[union-attr]
    size = size if isinstance(size, int) else size[0]
    channels = int(getattr(model.config, "num_channels", 3))  # type: ignore[union-attr, arg-type]
    return dict(_fed(model, *((2, channels, side, side) for side in (size, 224))))


SUITES: dict[str, Callable[[], Iterator[Case]]] = {
    "timm": timm_cases,
    "torchvision": torchvision_cases,
    "detectron2": detectron2_cases,
    "mmseg": mmseg_cases,
    "huggingface": hugging_face_cases,
}
