"""Whether models and data sets agree on categories: the one place where both are known before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

__all__ = ["class_faults", "class_key"]

# Which number of the configuration each architecture takes for each kind of names that data sets have.
_THINGS = {
    "GeneralizedRCNN": "MODEL.ROI_HEADS.NUM_CLASSES",
    "PanopticFPN": "MODEL.ROI_HEADS.NUM_CLASSES",
    "RetinaNet": "MODEL.RETINANET.NUM_CLASSES",
}
_STUFF: dict[str, str] = dict.fromkeys(("PanopticFPN", "SemanticSegmentor"), "MODEL.SEM_SEG_HEAD.NUM_CLASSES")
_KEYPOINTS = "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS"


def class_key(cfg: CfgNode) -> str | None:
    """The key of the number of categories that the architecture tells apart; None where it tells none."""
    return _THINGS.get(_architecture(cfg))


def class_faults(cfg: CfgNode) -> Iterator[str]:
    """Compares the numbers of a model with those of every data set, for training and for evaluation.

    More categories in the data would be trained as background, more in the model end the first evaluation.

    Yields:
        A sentence for each data set that does not fit, with what to set.
    """
    stuff = _STUFF.get(_architecture(cfg))
    kinds = [(class_key(cfg), "thing_classes", "categories"), (stuff, "stuff_classes", "kinds")]
    if cfg.MODEL.KEYPOINT_ON:
        kinds.append((_KEYPOINTS, "keypoint_names", "keypoints"))
    for key, attribute, words in kinds:
        for name in dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]) if key else ():
            names = MetadataCatalog.get(name).get(attribute) or []
            known = _value(cfg, str(key))
            if names and len(names) != known:
                yield f"{key} is {known} and data set {name!r} has {len(names)} {words}, set {key} {len(names)}"


def _architecture(cfg: CfgNode) -> str:
    name = cfg.MODEL.META_ARCHITECTURE
    return cfg.MODEL.NDPP.META_ARCHITECTURE if name == "NDPPModel" else name


def _value(cfg: CfgNode, key: str) -> int:
    section, name = key.removeprefix("MODEL.").split(".")
    return cfg.MODEL[section][name]
