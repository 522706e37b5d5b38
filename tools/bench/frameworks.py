"""The suites on whole models, built by their frameworks from our configs: Mask R-CNN and DeepLabv3."""

import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.case import Case, Settings, Step
from bench.peers import obvious

PRESETS = {"ND++ fast": "fast", "ND++ paper": "paper", "ND++ unfold": "paper"}
NORMS = {"BN": "BN", "SyncBN": "SyncBN", "FrozenBN": "FrozenBN", "GN": "GN"}
OBJECTS = 6  # in every image
PROPOSALS = 1000  # for every image, of which
NEAR = 16  # lie about each object


def detector_cases(settings: Settings) -> list[Case]:
    """Training steps of Mask R-CNN R50-FPN on random images with boxes and masks."""
    _mute()

    sizes = [(1, 128, 160)] if settings.quick else [(2, 512, 512), (2, 800, 1344)]
    return [
        Case(
            f"batch {batch}, {height} x {width} px",
            {label: partial(_detector_step, label, batch, height, width, settings) for label in (*NORMS, *PRESETS)},
        )
        for batch, height, width in sizes
    ]


def segmentor_cases(settings: Settings) -> list[Case]:
    """Training steps of DeepLabv3 R50 on random images and labels."""
    _mute()

    full = (2, 512, 1024) if settings.device == "cuda" else (2, 256, 512)
    sizes = [(2, 64, 128) if settings.quick else full]
    labels = ["BN", "SyncBN", "GN", *PRESETS]
    return [
        Case(
            f"batch {batch}, {height} x {width} px",
            {label: partial(_segmentor_step, label, batch, height, width, settings) for label in labels},
        )
        for batch, height, width in sizes
    ]


def _mute() -> None:
    """Keeps what the frameworks deprecate in one another from the progress bar."""
    warnings.filterwarnings("ignore", module=r"(torch|detectron2|fvcore|mmengine|mmcv|mmseg)\.")


def _detector_step(label: str, batch: int, height: int, width: int, settings: Settings) -> Step:
    from detectron2.utils.events import EventStorage

    torch.manual_seed(0)  # the same pictures and boxes for every peer
    data = [_picture(height, width) for _ in range(batch)]
    boxes = [_boxes(picture["instances"]) for picture in data]
    model = _detector(label, settings).train()
    _fix_proposals(model, boxes)

    def step() -> None:
        torch.manual_seed(0)  # regions are drawn from the proposals
        with EventStorage(0), settings.autocast():
            losses = model(data)
        torch.stack(list(losses.values())).sum().backward()
        model.zero_grad(set_to_none=True)

    return step


def _detector(label: str, settings: Settings) -> nn.Module:
    """The architecture of ``mask_rcnn_ndpp``, with a norm where the baselines have one or converted."""
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    from ndpp_dense.config_files import find_config
    from ndpp_dense.integrations.detectron2 import add_ndpp_config

    cfg = get_cfg()
    add_ndpp_config(cfg)
    cfg.merge_from_file(str(find_config("mask_rcnn_ndpp")))
    cfg.MODEL.DEVICE = settings.device
    if label in PRESETS:
        cfg.MODEL.NDPP.PRESET = PRESETS[label]
    else:
        cfg.MODEL.META_ARCHITECTURE = cfg.MODEL.NDPP.META_ARCHITECTURE
        cfg.MODEL.RESNETS.NORM = NORMS[label]
        if label != "FrozenBN":  # which is for pretrained backbones, and leaves the new layers without a norm
            cfg.MODEL.FPN.NORM = cfg.MODEL.ROI_MASK_HEAD.NORM = NORMS[label]
    model = build_model(cfg)
    if settings.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return obvious(model) if label == "ND++ unfold" else model


def _picture(height: int, width: int) -> dict[str, Any]:
    """A random image with rectangles for objects, as Detectron2 hands it to its models."""
    from detectron2.structures import Boxes, Instances, PolygonMasks

    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    corners = torch.rand(OBJECTS, 2) * 0.6
    boxes = torch.cat([corners, corners + 0.1 + 0.3 * torch.rand(OBJECTS, 2)], 1)
    boxes = boxes * torch.tensor([width, height, width, height])
    found = Instances((height, width))
    found.gt_boxes = Boxes(boxes)
    found.gt_classes = torch.randint(0, 80, (OBJECTS,))
    found.gt_masks = PolygonMasks([[_rectangle(box)] for box in boxes])
    return {"image": image, "instances": found, "height": height, "width": width}


def _boxes(found: Any) -> Tensor:
    """Proposals for a picture: random ones, and some about its objects, which give about 100 positive regions."""
    height, width = found.image_size
    corners = torch.rand(PROPOSALS - OBJECTS * NEAR, 2) * 0.6
    anywhere = torch.cat([corners, corners + 0.05 + 0.35 * torch.rand(len(corners), 2)], 1)
    objects = found.gt_boxes.tensor.repeat(NEAR, 1)
    shifts = 0.1 * (torch.rand(len(objects), 4) - 0.5) * (objects[:, 2:] - objects[:, :2]).repeat(1, 2)
    return torch.cat([anywhere * torch.tensor([width, height, width, height]), objects + shifts])


def _fix_proposals(model: Any, boxes: list[Tensor]) -> None:
    """Puts the same boxes in the place of what an RPN proposes, after it has.

    Untrained networks propose what their random weights say, and the heads of one would have more regions to work on
    than those of another.
    """
    from detectron2.structures import Boxes, Instances

    propose = model.proposal_generator.predict_proposals

    def predict(*args: Any) -> list[Any]:
        device = propose(*args)[0].proposal_boxes.device
        sizes = args[-1]
        return [
            Instances(
                size, proposal_boxes=Boxes(some.to(device)), objectness_logits=some.new_zeros(len(some)).to(device)
            )
            for size, some in zip(sizes, boxes, strict=True)
        ]

    model.proposal_generator.predict_proposals = predict


def _rectangle(box: Tensor) -> Any:
    left, top, right, bottom = box.double().numpy()
    return box.new_tensor([left, top, right, top, right, bottom, left, bottom], dtype=torch.float64).numpy()


def _segmentor_step(label: str, batch: int, height: int, width: int, settings: Settings) -> Step:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    model = settings.place(_segmentor(label)).train()
    x = settings.place(torch.randn(batch, 3, height, width))
    samples = []
    for labels in torch.randint(0, 19, (batch, 1, height, width), device=settings.device):
        sample = SegDataSample(gt_sem_seg=PixelData(data=labels))
        sample.set_metainfo({"img_shape": (height, width), "pad_shape": (height, width)})
        samples.append(sample)

    def step() -> None:
        with settings.autocast():
            losses = model(x, samples, mode="loss")
        torch.stack([value for name, value in losses.items() if "loss" in name]).sum().backward()
        model.zero_grad(set_to_none=True)

    return step


def _segmentor(label: str) -> nn.Module:
    from mmengine.config import Config
    from mmengine.registry import DefaultScope
    from mmseg.registry import MODELS

    import ndpp_dense.integrations.mmseg  # noqa: F401  (registers the types that configs name)
    from ndpp_dense.config_files import find_config

    name = "deeplabv3_r50_ndpp_scratch" if label in PRESETS else "deeplabv3_r50_syncbn_scratch"
    options = Config.fromfile(str(find_config(name))).model
    if label in PRESETS:
        options.ndpp.preset = PRESETS[label]
    else:
        norm = {"type": label, "requires_grad": True, **({"num_groups": 32} if label == "GN" else {})}
        for part in (options.backbone, options.decode_head, options.auxiliary_head):
            part.norm_cfg = norm
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(options)
    return obvious(model) if label == "ND++ unfold" else model
