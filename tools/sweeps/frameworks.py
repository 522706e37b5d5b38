"""The models of the sweep that Detectron2 and MMSegmentation name in configs."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sweeps.check import Case
from sweeps.inputs import random_input

__all__ = ["detectron2_cases", "mmseg_cases"]


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

    config: Any = model_zoo.get_config(name)
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
    """The loss, which reaches auxiliary heads; the output, where a head has no loss in evaluation mode."""
    failed: Exception | None = None
    for size in (64, 128, 512, 640):
        for run in (_mmseg_loss, lambda module, side: module(random_input(module, 1, 3, side, side), mode="tensor")):
            try:
                return run(model, size)
            except Exception as error:  # noqa: BLE001, PERF203
                failed = failed or error
    raise failed or ValueError("no size was tried")


def _mmseg_loss(model: nn.Module, size: int) -> Any:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    labels = torch.randint(0, 2, (1, size, size), generator=torch.Generator().manual_seed(1))
    sample = SegDataSample(gt_sem_seg=PixelData(data=labels))
    sample.set_metainfo({"img_shape": (size, size), "pad_shape": (size, size)})
    return model(random_input(model, 1, 3, size, size), [sample], mode="loss")
