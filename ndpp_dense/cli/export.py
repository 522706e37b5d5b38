"""Export a trained MMSegmentation model with ND++ layers to ONNX, with the whitening folded into plain layers.

Images go in as the config's data preprocessor makes them (order of channels, mean, std), logits of the same size come
out; number, height and width of the images are free.

Examples::

    ndpp export --config deeplabv3_ndpp_demo --checkpoint iter_500.pth --output model.onnx
    ndpp export --config CONFIG --checkpoint FILE --output model.onnx --size 1024 2048
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ndpp_dense.cli.output import check_folder, say

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what it takes."""
    add = parser.add_argument
    add("--config", required=True, metavar="NAME", help="path or bare name of the config that was trained")
    add("--checkpoint", required=True, metavar="FILE", help="checkpoint of the run")
    add("--output", required=True, metavar="FILE", help="ONNX file to write")
    add("--size", type=int, nargs=2, default=(512, 1024), metavar=("H", "W"), help="images to trace and compare with")


def run(args: argparse.Namespace) -> int:
    """Builds, loads, exports and compares."""
    from importlib.util import find_spec

    from ndpp_dense.integrations.mmseg.export import export_onnx, onnx_difference, trained_segmentor

    if min(args.size) < 1:
        raise ValueError(f"--size {args.size[0]} {args.size[1]}: height and width are pixels, at least 1.")
    check_folder("--output", Path(args.output).parent)
    model = trained_segmentor(args.config, args.checkpoint)
    file, size = Path(args.output), (args.size[0], args.size[1])
    file.parent.mkdir(parents=True, exist_ok=True)
    network = export_onnx(model, file, size)
    say(f"wrote {file} ({file.stat().st_size / 1e6:.1f} MB)")
    if find_spec("onnxruntime") is None:
        say("not compared with PyTorch: onnxruntime is not installed")
    else:
        difference = onnx_difference(network, file, (1, *size))
        say(f"logits of onnxruntime and PyTorch differ by at most {difference:.1e}")
    return 0
