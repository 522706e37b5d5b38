#!/usr/bin/env python
"""Export a trained MMSegmentation model with ND++ layers to ONNX, with the whitening folded into plain layers.

Images go in as the config's data preprocessor makes them (order of channels, mean, std), logits of the same size come
out; number, height and width of the images are free.

Examples::

    python tools/export_onnx.py --config deeplabv3_ndpp_demo --checkpoint iter_500.pth --output model.onnx
    python tools/export_onnx.py --config CONFIG --checkpoint FILE --output model.onnx --size 1024 2048
"""

import argparse
import warnings
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError

from readable_errors import readable_errors


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = result.add_argument
    add("--config", required=True, metavar="NAME", help="path or bare name of the config that was trained")
    add("--checkpoint", required=True, metavar="FILE", help="checkpoint of the run")
    add("--output", required=True, metavar="FILE", help="ONNX file to write")
    add("--size", type=int, nargs=2, default=(512, 1024), metavar=("H", "W"), help="images to trace and compare with")
    add("--traceback", action="store_true", help="show where in the program an error arose")
    return result


def run(args: argparse.Namespace) -> None:
    """Build, load, export and compare."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope
    from mmengine.runner import load_checkpoint

    from ndpp_dense.config_files import find_config
    from ndpp_dense.integrations.mmseg.export import export_onnx, onnx_difference

    config = Config.fromfile(str(find_config(args.config)))
    init_default_scope(config.get("default_scope", "mmseg"))
    model = MODELS.build(config.model)
    try:
        load_checkpoint(model, args.checkpoint, map_location="cpu", strict=True)
    except (RuntimeError, UnpicklingError, EOFError) as error:
        raise ValueError(
            f"{args.checkpoint} is no checkpoint of {args.config}: {' '.join(str(error).split())[:500]} "
            "Give the config that the run left in its work dir."
        ) from error
    file = Path(args.output)
    file.parent.mkdir(parents=True, exist_ok=True)
    size = (args.size[0], args.size[1])
    network = export_onnx(model, file, size)
    print(f"wrote {file} ({file.stat().st_size / 1e6:.1f} MB)", flush=True)
    if find_spec("onnxruntime") is None:
        print("not compared with PyTorch: onnxruntime is not installed", flush=True)
        return
    difference = onnx_difference(network, file, (1, *size))
    print(f"logits of onnxruntime and PyTorch differ by at most {difference:.1e}", flush=True)


def main(argv: list[str] | None = None) -> None:
    """Parse the command line and run."""
    # MMEngine, MMCV and MMSegmentation were written for older releases: harmless, and nothing a user can change.
    for package in ("mmengine", "mmcv", "mmseg"):
        warnings.filterwarnings("ignore", module=f"{package}.*")
    args = parser().parse_args(argv)
    with readable_errors(args.traceback):
        run(args)


if __name__ == "__main__":
    main()
