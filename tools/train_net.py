#!/usr/bin/env python
"""Train and evaluate a Detectron2 model with ND++ layers.

Examples::

    python tools/train_net.py --config mask_rcnn_ndpp_demo --device cpu
    python tools/train_net.py --config CONFIG --num-gpus 8 --resume
    python tools/train_net.py --config mask_rcnn_ndpp_demo --weights ndpp://mask_rcnn_ndpp_demo
    python tools/train_net.py --config CONFIG --dataset cells_train=train.json:cells --dataset cells_val=val.json:cells
    torchrun --nproc-per-node 8 tools/train_net.py --config CONFIG SOLVER.BASE_LR 0.01
"""

import argparse
import logging
import warnings
from functools import partial

from launch_options import add_launch_options, launch_options, say
from readable_errors import readable_errors, shows_tracebacks

# Detectron2's own, and harmless. Set here, so that spawned processes have them before they import it.
for _message in ("`torch.jit.script` is deprecated", "torch.meshgrid", "The given NumPy array is not writable"):
    warnings.filterwarnings("ignore", message=_message)


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = result.add_argument
    add("--config", "--config-file", required=True, metavar="NAME", help="path or bare name of a config")
    add("--resume", action="store_true", help="continue the newest checkpoint of the output folder")
    add("--eval-only", action="store_true", help="only evaluate MODEL.WEIGHTS (with --resume: the newest checkpoint)")
    add("--weights", metavar="NAME|PATH", help="start from (or evaluate) these: MODEL.WEIGHTS, or of the model zoo")
    add("--dataset", action="append", default=[], metavar="NAME=JSON:IMAGES", help="COCO-format set; repeatable")
    add("--device", choices=("cuda", "cpu"), help="default: cuda where there is a GPU, else cpu")
    add("--output", metavar="FOLDER", help="default: output/<config name>")
    add_launch_options(result)
    add("--traceback", action="store_true", help="show where in the program an error arose")
    add("overrides", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="configuration overrides")
    return result


def run(args: argparse.Namespace) -> None:
    """Run one process of the training or evaluation."""
    # Detectron2 logs a traceback itself before the error arrives here.
    if not shows_tracebacks(args.traceback):
        logging.getLogger("detectron2.engine.train_loop").addFilter(lambda record: not record.exc_info)
    from ndpp_dense.integrations.detectron2.run_config import build_config, prepare_run
    from ndpp_dense.zoo import as_address

    weights = ["MODEL.WEIGHTS", as_address(args.weights)] if args.weights else []
    cfg, remarks = build_config(
        args.config,
        datasets=args.dataset,
        device=args.device,
        output=args.output,
        overrides=[*args.overrides, *weights],
        auto_scale=args.auto_scale,
    )
    prepare_run(cfg)
    _say(*remarks)
    if args.eval_only:
        _evaluate(cfg, args.resume)
    else:
        _train(cfg, args.resume)


def _train(cfg, resume: bool) -> None:
    from ndpp_dense.integrations.detectron2.trainer import NDTrainer

    trainer = NDTrainer(cfg)
    _say(_found(cfg, trainer.net, f"{len(trainer.data.dicts)} training images"))
    trainer.resume_or_load(resume)
    trainer.train()


def _evaluate(cfg, resume: bool) -> None:
    from detectron2.modeling import build_model
    from detectron2.utils import comm

    from ndpp_dense.integrations.detectron2.checkpoint import NDCheckpointer
    from ndpp_dense.integrations.detectron2.evaluation import evaluate, write_report

    model = build_model(cfg)
    _say(_found(cfg, model, "evaluation only"))
    NDCheckpointer(model, cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    results = evaluate(cfg, model)
    if comm.is_main_process():
        write_report(cfg, results)


def _found(cfg, model, training: str) -> str:
    """Return one line: device, processes, data, layers."""
    from detectron2.data import DatasetCatalog
    from detectron2.utils import comm

    test = sum(len(DatasetCatalog.get(name)) for name in cfg.DATASETS.TEST)
    report = getattr(model, "ndpp_report", None)
    layers = f"{len(report.converted)} ND++ layers" if report is not None else "no ND++ layers"
    return f"{cfg.MODEL.DEVICE}, {comm.get_world_size()} process(es), {training}, {test} test images, {layers}"


def _say(*lines: str) -> None:
    from detectron2.utils import comm

    if comm.is_main_process():
        for line in lines:
            print(line, flush=True)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and launch."""
    args = parser().parse_args(argv)
    with readable_errors(args.traceback):
        import torch

        from ndpp_dense.integrations.detectron2.launch import launch

        args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        guard = partial(readable_errors, args.traceback)
        launch(run, launch_options(args, args.device), (args,), say=say, guard=guard)


if __name__ == "__main__":
    main()
