#!/usr/bin/env python
"""Convert the weights of a pretrained backbone from one framework's names and files to another's.

Every key of the file must have a place and every weight of the backbone a key, else nothing is written and the exit
code is 2. The classifier is dropped for detectron2 and mmseg, which have none.

Examples::

    python tools/convert_weights.py resnet50.safetensors r50_d2.pth --to detectron2
    python tools/convert_weights.py output/resnet50_hybrid/best.pth hybrid_mmseg.pth --to mmseg
    python tools/convert_weights.py model_final.pkl r50.safetensors --to timm
    python tools/convert_weights.py resnet50.pth r50_nd.pth --to detectron2 --calibrate imagenet/val --model resnet50
"""

import argparse
import warnings
from dataclasses import replace
from pathlib import Path

from readable_errors import readable_errors


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    formats = ("timm", "torchvision", "detectron2", "mmseg")
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = result.add_argument
    add("input", metavar="FILE", help=".pth, .safetensors, .pkl of Detectron2's model zoo, or ndpp://NAME")
    add("output", metavar="OUTPUT", help=".pth; for timm and torchvision .safetensors too")
    add("--from", dest="source", choices=formats, help="format of FILE; recognised by its names if not given")
    add("--to", dest="target", choices=formats, required=True, help="format of OUTPUT")
    add("--model", metavar="NAME", help="backbone; recognised by its shapes if it is a ResNet")
    add("--allow", action="append", default=[], metavar="PATTERN", help="keys to drop, or to do without; repeatable")
    group = result.add_argument_group("ND++ from batch norms")
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
    result.add_argument("--traceback", action="store_true", help="show where in the program an error arose")
    return result


def run(args: argparse.Namespace) -> None:
    """Read, match, calibrate if asked, and write."""
    from ndpp_dense.weights.conversion import read_backbone, write_backbone
    from ndpp_dense.weights.files import read_weights
    from ndpp_dense.weights.formats import cautions, check_output, detect_format, usage
    from ndpp_dense.weights.match import whitened_layers

    check_output(args.output, args.target, args.input)
    from ndpp_dense.zoo import SCHEME
    from ndpp_dense.zoo.views import torch_view

    file = read_weights(torch_view(args.input) if args.input.startswith(SCHEME) else args.input)
    source, reason = (args.source, "--from") if args.source else detect_format(file)
    _say(f"from {source}: {reason}")
    backbone = read_backbone(file, source, args.model, args.allow)
    _say(f"model {backbone.model}: {'--model' if args.model else 'recognised'}")
    if args.calibrate and not backbone.differences:
        backbone = _calibrated(args, backbone)
    write_backbone(backbone, args.target, args.output, _say)
    _say(f"wrote {args.output} ({Path(args.output).stat().st_size / 1e6:.1f} MB)")
    whitened = bool(whitened_layers(backbone.entries))
    _say(*usage(backbone.model, source, args.target, args.output, whitened))
    _say(*cautions(file, source, args.target, whitened, backbone.facts["ndpp"]))


def _calibrated(args: argparse.Namespace, backbone):
    from ndpp_dense.layers.config import preset
    from ndpp_dense.weights.from_batch_norm import calibrated, image_batches

    config = preset(args.preset, args.task)
    if args.local_scale:
        config = replace(config, local_scale=args.local_scale)
    batches = list(image_batches(args.calibrate, args.image_size, args.batch_size, args.batches))
    _say(f"calibrating on {sum(map(len, batches))} images of {args.calibrate}")
    rules = {pattern: {"local_scale": "none"} for pattern in args.no_scale}
    entries, report = calibrated(backbone.model, backbone.entries, config, batches, rules)
    _say(report.summary())
    return backbone.calibrated(entries, config, rules)


def _say(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run."""
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")  # Detectron2's own, and harmless
    args = parser().parse_args(argv)
    with readable_errors(args.traceback):
        run(args)


if __name__ == "__main__":
    main()
