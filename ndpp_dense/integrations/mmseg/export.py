"""From a trained ND++ segmentor to an ONNX file of plain operations, for batches and images of any size."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError

import torch
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from ndpp_dense.config_files import find_config
from ndpp_dense.conversion.fold import fold_ndpp
from ndpp_dense.integrations.mmengine.setting_checks import read_file

__all__ = ["SegmentationLogits", "export_onnx", "onnx_difference", "trained_segmentor"]
INPUT, OUTPUT = "images", "logits"


def trained_segmentor(config: str, checkpoint: str) -> nn.Module:
    """Builds the model of a config with the weights of a run.

    Args:
        config: Path or bare name.
        checkpoint: File that the run left.

    Raises:
        FileNotFoundError: There is no such config or file.
        ValueError: The checkpoint is damaged, or of another config.
    """
    settings = read_file(find_config(config))
    init_default_scope(settings.get("default_scope", "mmseg"))
    model = MODELS.build(settings.model)
    try:
        load_checkpoint(model, checkpoint, map_location="cpu", strict=True)
    except (RuntimeError, UnpicklingError, EOFError) as error:
        raise ValueError(
            f"{checkpoint} is no checkpoint of {config}: {' '.join(str(error).split())[:500]} "
            "Give the config that the run left in its work dir."
        ) from error
    return model


class SegmentationLogits(nn.Module):
    """A segmentor as a function of images alone, with its ND++ layers folded and without what only training needs.

    Args:
        segmentor: A converted EncoderDecoder; it is left untouched.

    Raises:
        ValueError: It has no ND++ layer.
    """

    def __init__(self, segmentor: nn.Module) -> None:
        super().__init__()
        self.segmentor = fold_ndpp(segmentor)
        self.segmentor.auxiliary_head = None  # type: ignore[assignment]
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Maps whole images ``(N, 3, H, W)``, as the data preprocessor makes them, to ``(N, num_classes, H, W)``."""
        size = images.shape[2:]
        return self.segmentor.encode_decode(images, [{"img_shape": size, "pad_shape": size}])  # type: ignore[operator]


@torch.no_grad()
def export_onnx(segmentor: nn.Module, file: str | Path, size: tuple[int, int] = (512, 1024)) -> SegmentationLogits:
    """Writes a network from ``images`` to ``logits``, of dynamic batch size, height and width.

    Args:
        segmentor: A converted EncoderDecoder with its trained weights and statistics.
        file: What to write; PyTorch puts weights of 2 GB and more into a second file beside it.
        size: Height and width, in pixels, of the images that it is traced with; any that the network takes.

    Returns:
        The folded network that was exported.

    Raises:
        ImportError: PyTorch's exporter needs packages that are missing.
        ValueError: The segmentor has no ND++ layer.
    """
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ImportError(f"Exporting needs {' and '.join(missing)}: pip install onnx onnxscript onnxruntime")
    network = SegmentationLogits(segmentor)
    images = _random_images(network, (2, *size))  # a batch of one would be taken for a constant
    program = torch.onnx.export(
        network,
        (images,),
        dynamo=True,
        dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
        input_names=[INPUT],
        output_names=[OUTPUT],
        verbose=False,
    )
    program.save(file)  # type: ignore[union-attr]
    return network


@torch.no_grad()
def onnx_difference(network: SegmentationLogits, file: str | Path, shape: tuple[int, int, int]) -> float:
    """The largest absolute difference between the network's logits and those that onnxruntime gets from the file.

    Args:
        network: What :func:`export_onnx` returned.
        file: What it wrote.
        shape: Number, height and width of the random images to compare on.
    """
    import onnxruntime

    images = _random_images(network, shape)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (logits,) = session.run([OUTPUT], {INPUT: images.cpu().numpy()})
    return float((network(images).cpu() - torch.from_numpy(logits)).abs().max())


def _random_images(network: nn.Module, shape: tuple[int, int, int]) -> Tensor:
    channels = next(m for m in network.modules() if isinstance(m, nn.Conv2d)).in_channels
    return torch.randn(shape[0], channels, *shape[1:], device=next(network.parameters()).device)
