"""timm networks under MMSegmentation's heads, plain and with ND++."""

import pytest
import torch

pytest.importorskip("mmseg", reason="MMSegmentation is not installed: pip install 'ndpp-dense[mmseg]'")
pytest.importorskip("timm", reason="timm is not installed: extra 'pretrain'")

import timm

from ndpp_dense import nd_layers

pytestmark = pytest.mark.mmseg


@pytest.mark.parametrize("kind", ["EncoderDecoder", "NDPPModel"])
def test_a_segmentor_trains_on_it(model_config, batch, kind, tmp_path):
    from mmengine.registry import MODELS, init_default_scope

    import ndpp_dense.integrations.mmseg  # noqa: F401

    init_default_scope("mmseg")
    whole = timm.create_model("resnet10t")
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    file = str(tmp_path / "whole.pth")
    backbone = {"type": "NDPPTimmBackbone", "name": "resnet10t", "weights": file, "output_stride": 8}
    model_config["backbone"] = backbone | {"out_indices": (3, 4), "frozen_stages": 2}
    model_config["decode_head"] |= {"in_channels": 512, "in_index": 1}
    model_config["auxiliary_head"] |= {"in_channels": 256, "in_index": 0}
    if kind != "NDPPModel":
        del model_config["ndpp"]
    model = MODELS.build({**model_config, "type": kind})
    model.init_weights()
    assert model.backbone.body.network.layer2[0].conv1.weight.equal(whole.layer2[0].conv1.weight)
    assert bool(list(nd_layers(model.backbone))) == (kind == "NDPPModel")
    data = model.data_preprocessor(batch, True)
    losses = model.train()(**data, mode="loss")
    sum(value for name, value in losses.items() if "loss" in name).backward()
    assert model.backbone.body.network.layer4[0].conv1.weight.grad is not None
    assert model.backbone.body.network.layer1[0].conv1.weight.grad is None
