"""Train a Mask R-CNN with ND++ by Detectron2's own trainer, on handwritten digits that are generated on first use."""

import argparse

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling import build_model

from ndpp_dense import fold_ndpp, nd_layers
from ndpp_dense.config_files import find_config
from ndpp_dense.datasets import ensure_digits
from ndpp_dense.integrations.detectron2 import add_ndpp_config


class Trainer(DefaultTrainer):
    """Detectron2's trainer with COCO evaluation by pycocotools alone."""

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        """Return the evaluator of a data set."""
        return COCOEvaluator(dataset_name, output_dir=cfg.OUTPUT_DIR, use_fast_impl=False)


def main() -> None:
    """Register data, configure, train, evaluate, fold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--output", default="output/example_detectron2")
    parser.add_argument("--images", type=int, default=400, help="training images to generate")
    args = parser.parse_args()

    digits = ensure_digits(num_train=args.images, num_val=max(4, args.images // 10))
    register_coco_instances("example_train", {}, str(digits.train_json), str(digits.train_images))
    register_coco_instances("example_val", {}, str(digits.val_json), str(digits.val_images))

    cfg = add_ndpp_config(get_cfg())
    cfg.merge_from_file(str(find_config("mask_rcnn_ndpp_demo")))  # MODEL.META_ARCHITECTURE: NDPPModel, and small sizes
    cfg.MODEL.NDPP.PRESET = "fast"
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("example_train",), ("example_val",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.TEST.EVAL_PERIOD = args.steps, (), 0
    cfg.OUTPUT_DIR = args.output

    trainer = Trainer(cfg)
    trainer.train()
    print(f"{len(list(nd_layers(trainer.model)))} ND++ layers, evaluated: {sorted(trainer.test(cfg, trainer.model))}")

    model = build_model(cfg)
    DetectionCheckpointer(model).load(f"{args.output}/model_final.pth")
    plain = fold_ndpp(model.eval())
    print(f"folded: {len(list(nd_layers(plain)))} ND++ layers")


if __name__ == "__main__":
    main()
