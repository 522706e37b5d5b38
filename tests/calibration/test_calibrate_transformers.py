"""Calibration of networks whose norms, attention or recurrences are no batch norms behind linear layers."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from ndpp_dense import WhiteningConfig, calibrate_ndpp
from ndpp_dense.layers import nd_layers

EXACT = WhiteningConfig.fast("imagenet").override({"local_scale": "none"})


class Recurrent(nn.Module):
    """A convolution with its batch norm, then rows through a GRU and a bilinear layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.gru, self.pair, self.fc = nn.GRU(8, 8, batch_first=True), nn.Bilinear(8, 8, 4), nn.Linear(4, 4)

    def forward(self, x):
        rows = self.bn(self.conv(x)).relu().flatten(2).transpose(1, 2)
        rows = self.gru(rows)[0]
        return self.fc(self.pair(rows, rows))


def encoder():
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


NETWORKS = {
    "vit": (lambda: timm.create_model("test_vit", img_size=64), (3, 64, 64)),
    "convnext": (lambda: timm.create_model("test_convnext"), (3, 64, 64)),
    "recurrent": (Recurrent, (3, 24, 24)),
    "attention": (encoder, (40, 32)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_layer_norms_attention_and_recurrences_stay_and_the_function_too(name):
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    model = make().eval()
    batches = [torch.randn(24, *shape) for _ in range(3)]
    with torch.no_grad():
        before = model(batches[0])
    report = calibrate_ndpp(model, batches, EXACT)
    assert any(True for _ in nd_layers(model))
    assert all(record.action != "dropped" or record.name == "bn" for record in report.records)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(batches[0]), before, atol=2e-4, rtol=2e-3)
