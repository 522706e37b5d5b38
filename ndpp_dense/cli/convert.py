"""Convert the weights of a pretrained backbone from one framework's names and files to another's.

Every key of the file must have a place and every weight of the backbone a key, else nothing is written and the exit
code is 2. The classifier is dropped for detectron2 and mmseg, which have none.

Examples::

    ndpp convert resnet50.safetensors r50_d2.pth --to detectron2
    ndpp convert output/resnet50_hybrid/best.pth hybrid_mmseg.pth --to mmseg
    ndpp convert model_final.pkl r50.safetensors --to timm
    ndpp convert resnet50.pth r50_nd.pth --to detectron2 --calibrate imagenet/val --model resnet50
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from ndpp_dense.cli.output import say
from ndpp_dense.integrations.registry import format_names, weight_formats

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what it takes."""
    formats = format_names()
    add = parser.add_argument
    add("input", metavar="FILE", help=".pth, .safetensors, .pkl of Detectron2's model zoo, or ndpp://NAME")
    add("output", metavar="OUTPUT", help=".pth; for timm and torchvision .safetensors too")
    add("--from", dest="source", choices=formats, help="format of FILE; recognised by its names if not given")
    add("--to", dest="target", choices=formats, required=True, help="format of OUTPUT")
    add("--model", metavar="NAME", help="backbone; recognised by its shapes if it is a ResNet or a pooling transformer")
    add("--allow", action="append", default=[], metavar="PATTERN", help="keys to drop, or to do without; repeatable")
    group = parser.add_argument_group("ND++ from batch norms")
    add = group.add_argument
    add("--calibrate", metavar="FOLDER", help="images, at any depth, to start ND++ with")
    add("--preset", choices=("fast", "paper"), default="fast", help="how to whiten (default: fast)")
    add("--local-scale", choices=("l1", "none"), help="in place of the preset's; none computes the same to rounding")
    help_text = "layers by name or pattern (timm's) that do without local scale, such as conv1; repeatable"
    add("--no-scale", action="append", default=[], metavar="PATTERN", help=help_text)
    add("--task", choices=("imagenet", "coco", "cityscapes"), default="imagenet", help="of the preset")
    add("--image-size", type=int, default=224, metavar="PIXELS", help="default: 224")
    add("--batch-size", type=int, default=32, metavar="N", help="default: 32")
    add("--batches", type=int, default=20, metavar="N", help="default: 20")


def run(args: argparse.Namespace) -> int:
    """Reads, matches, calibrates if asked, and writes."""
    from ndpp_dense.weights.conversion import read_backbone, write_backbone
    from ndpp_dense.weights.files import read_weights
    from ndpp_dense.weights.formats import cautions, check_output, detect_format
    from ndpp_dense.weights.match import whitened_layers

    formats = weight_formats()
    target = formats[args.target]
    check_output(args.output, target, args.input)
    from ndpp_dense.zoo import SCHEME
    from ndpp_dense.zoo.views import torch_view

    file = read_weights(torch_view(args.input) if args.input.startswith(SCHEME) else args.input)
    source, reason = (formats[args.source], "--from") if args.source else detect_format(file, [*formats.values()])
    say(f"from {source.name}: {reason}")
    backbone = read_backbone(file, source, args.model, args.allow)
    say(f"model {backbone.model}: {'--model' if args.model else 'recognised'}")
    if args.calibrate and not backbone.differences:
        backbone = _calibrated(args, backbone)
    write_backbone(backbone, target, args.output, say)
    say(f"wrote {args.output} ({Path(args.output).stat().st_size / 1e6:.1f} MB)")
    whitened = bool(whitened_layers(backbone.entries))
    say(*target.usage_of(backbone.model, args.output, source, whitened))
    say(*cautions(file, source, target, whitened, backbone.facts["ndpp"]))
    return 0


def _calibrated(args: argparse.Namespace, backbone):
    from ndpp_dense.layers.config import preset
    from ndpp_dense.weights.from_batch_norm import calibrated, image_batches

    config = preset(args.preset, args.task)
    if args.local_scale:
        config = replace(config, local_scale=args.local_scale)
    batches = list(image_batches(args.calibrate, args.image_size, args.batch_size, args.batches))
    say(f"calibrating on {sum(map(len, batches))} images of {args.calibrate}")
    rules = {pattern: {"local_scale": "none"} for pattern in args.no_scale}
    entries, report = calibrated(backbone.model, backbone.entries, config, batches, rules)
    say(report.summary())
    return backbone.calibrated(entries, config, rules)
