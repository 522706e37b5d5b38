"""The suites on whole models, built by their frameworks from our configs: Mask R-CNN and DeepLabv3."""

import warnings
from functools import partial

import torch
from torch import Tensor, nn

from bench.case import Case, Settings, Step
from bench.gpu.sync_batch_norm import synchronised_alone
from bench.peers import obvious
from bench.pictures import boxes_about, fix_proposals, picture

WHITENED = ("ND++ fast", "ND++ paper", "ND++ unfold")
PRESETS = {"ND++ fast": "fast", "ND++ fast, stale": "fast", "ND++ paper": "paper", "ND++ unfold": "paper"}
NORMS = {"BN": "BN", "SyncBN": "SyncBN", "FrozenBN": "FrozenBN", "GN": "GN"}
SMALL_BLOCKS = {"block_size": 16, "block_size_spatial": 8}  # in a rehearsal, quickly solved


def detector_cases(settings: Settings) -> list[Case]:
    """Training steps of Mask R-CNN R50-FPN on random images with boxes and masks."""
    mute()

    sizes = [(1, 128, 160)] if settings.quick else [(2, 512, 512), (2, 800, 1344)]
    return [
        Case(
            f"batch {batch}, {height} x {width} px",
            {label: partial(detector_step, label, batch, height, width, settings) for label in (*NORMS, *WHITENED)},
        )
        for batch, height, width in sizes
    ]


def segmentor_cases(settings: Settings) -> list[Case]:
    """Training steps of DeepLabv3 R50 on random images and labels."""
    mute()

    full = (2, 512, 1024) if settings.device == "cuda" else (2, 256, 512)
    sizes = [(2, 64, 128) if settings.quick else full]
    labels = ["BN", "SyncBN", "GN", *WHITENED]
    return [
        Case(
            f"batch {batch}, {height} x {width} px",
            {label: partial(segmentor_step, label, batch, height, width, settings) for label in labels},
        )
        for batch, height, width in sizes
    ]


def mute() -> None:
    """Keeps what the frameworks deprecate in one another from the progress bar."""
    warnings.filterwarnings("ignore", module=r"(torch|detectron2|fvcore|mmengine|mmcv|mmseg)\.")


def detector_step(label: str, batch: int, height: int, width: int, settings: Settings) -> Step:
    """A training step of Mask R-CNN with the norm or preset of a label."""
    from detectron2.utils.events import EventStorage

    torch.manual_seed(0)  # the same pictures and boxes for every peer
    data = [picture(height, width) for _ in range(batch)]
    boxes = [boxes_about(seen["instances"]) for seen in data]
    model = _detector(label, settings).train()
    fix_proposals(model, boxes)

    def step() -> Tensor:
        torch.manual_seed(0)  # regions are drawn from the proposals
        with EventStorage(0), settings.autocast():
            losses = model(data)
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()
        model.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def _detector(label: str, settings: Settings) -> nn.Module:
    """The architecture of ``mask_rcnn_ndpp``, with a norm where the baselines have one or converted."""
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    from ndpp_dense.config_files import find_config
    from ndpp_dense.integrations.detectron2 import add_ndpp_config

    cfg = get_cfg()
    add_ndpp_config(cfg)
    cfg.merge_from_file(str(find_config("mask_rcnn_ndpp_small" if settings.rehearse else "mask_rcnn_ndpp")))
    cfg.MODEL.DEVICE = settings.device
    if label in PRESETS:
        cfg.MODEL.NDPP.PRESET = PRESETS[label]
        cfg.MODEL.NDPP.SCHEDULE = "stale" if "stale" in label else None
        for field, value in SMALL_BLOCKS.items() if settings.rehearse else ():
            cfg.MODEL.NDPP[field.upper()] = value
    else:
        cfg.MODEL.META_ARCHITECTURE = cfg.MODEL.NDPP.META_ARCHITECTURE
        cfg.MODEL.RESNETS.NORM = NORMS[label]
        if label != "FrozenBN":  # which is for pretrained backbones, and leaves the new layers without a norm
            cfg.MODEL.FPN.NORM = cfg.MODEL.ROI_MASK_HEAD.NORM = NORMS[label]
    model = synchronised_alone(build_model(cfg), settings) if label == "SyncBN" else build_model(cfg)
    if settings.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return obvious(model) if label == "ND++ unfold" else model


def segmentor_step(label: str, batch: int, height: int, width: int, settings: Settings) -> Step:
    """A training step of DeepLabv3 with the norm or preset of a label."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    model = _segmentor(label, settings.rehearse)
    model = settings.place(synchronised_alone(model, settings) if label == "SyncBN" else model).train()
    x = settings.place(torch.randn(batch, 3, height, width))
    samples = []
    for labels in torch.randint(0, 19, (batch, 1, height, width), device=settings.device):
        sample = SegDataSample(gt_sem_seg=PixelData(data=labels))
        sample.set_metainfo({"img_shape": (height, width), "pad_shape": (height, width)})
        samples.append(sample)

    def step() -> Tensor:
        with settings.autocast():
            losses = model(x, samples, mode="loss")
        loss = torch.stack([value for name, value in losses.items() if "loss" in name]).sum()
        loss.backward()
        model.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def _segmentor(label: str, small: bool = False) -> nn.Module:
    from mmengine.config import Config
    from mmengine.registry import DefaultScope
    from mmseg.registry import MODELS

    import ndpp_dense.integrations.mmseg  # noqa: F401  (registers the types that configs name)
    from ndpp_dense.config_files import find_config

    name = "deeplabv3_r50_ndpp_scratch" if label in PRESETS else "deeplabv3_r50_syncbn_scratch"
    options = Config.fromfile(str(find_config(name))).model
    if label in PRESETS:
        options.ndpp.preset = PRESETS[label]
        options.ndpp.update({"schedule": "stale"} if "stale" in label else {})
        options.ndpp.update(SMALL_BLOCKS if small else {})
    else:
        norm = {"type": label, "requires_grad": True, **({"num_groups": 32} if label == "GN" else {})}
        for part in (options.backbone, options.decode_head, options.auxiliary_head):
            part.norm_cfg = norm
    if small:
        options.backbone.depth = 18
        options.decode_head.update(in_channels=512, channels=64)
        options.auxiliary_head.update(in_channels=256, channels=64)
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(options)
    return obvious(model) if label == "ND++ unfold" else model
