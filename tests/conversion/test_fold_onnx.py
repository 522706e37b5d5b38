"""Folded models of every kind of layer as ONNX files: onnxruntime must agree with PyTorch, whatever the size."""

import pytest
import torch
from torch import nn

from ndpp_dense import NDConv2d, NDConvTranspose2d, NDLinear, WhiteningConfig, fold_ndpp

pytest.importorskip("onnxscript", reason="onnxscript is not installed: extra 'dev'")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: extra 'dev'")
SHAPE = (2, 3, 16, 20)  # of the images that are traced


def trained():
    """Return a network of every kind of layer and local scale, its running statistics far from the initial ones."""
    torch.manual_seed(0)
    l1, std = (WhiteningConfig(local_scale=kind, block_size=4, block_size_spatial=4) for kind in ("l1", "std"))
    net = nn.Sequential(
        NDConv2d(3, 8, 3, stride=2, padding=1, config=l1),
        nn.ReLU(),
        NDConv2d(8, 8, 3, padding=2, dilation=2, groups=2, config=std),
        nn.ReLU(),
        NDConv2d(8, 8, 3, padding="same", padding_mode="reflect", groups=2, config=l1),
        nn.ReLU(),
        NDConvTranspose2d(8, 8, 4, stride=2, padding=1, config=l1),
        nn.ReLU(),
        NDConvTranspose2d(8, 6, 2, stride=2, groups=2, config=std),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        NDLinear(6, 6, config=std),
        NDLinear(6, 5, config=l1),
    )
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(8, *SHAPE[1:]) * 2 + 1)
    return net.eval()


def test_onnxruntime_agrees(tmp_path):
    net = trained()
    folded, file = fold_ndpp(net), tmp_path / "model.onnx"
    axes = ({0: "batch", 2: "height", 3: "width"},)
    program = torch.onnx.export(folded, (torch.randn(SHAPE),), dynamo=True, dynamic_shapes=axes, verbose=False)
    program.save(file)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for shape in (SHAPE, (5, 3, 16, 20), (1, 3, 24, 32), (3, 3, 17, 21)):
        x = torch.randn(shape) * 3 - 1
        x[0] = 0  # an empty sample, which has no scale
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        expected = net(x).detach()
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(torch.from_numpy(y), expected, rtol=0, atol=1e-5)
