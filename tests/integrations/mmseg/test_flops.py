"""MMSegmentation's way to count operations must count those of ND++ models, and find a folded one as cheap as plain."""

import copy

import pytest
import torch

from ndpp_dense import fold_ndpp, nd_layers

pytestmark = pytest.mark.mmseg
SHAPE = (3, 96, 128)
NO_NORM = {"norm_cfg": {"type": "NoNorm"}}


def counts(model):
    """Return what MMSegmentation's ``get_flops.py`` gets, by the same calls."""
    from mmengine.analysis import get_model_complexity_info
    from mmengine.model import revert_sync_batchnorm
    from mmseg.structures import SegDataSample

    model = copy.deepcopy(model)
    model.auxiliary_head = None
    model = revert_sync_batchnorm(model)
    sample = SegDataSample(metainfo={"ori_shape": SHAPE[-2:], "pad_shape": SHAPE[-2:]})
    data = model.data_preprocessor({"inputs": [torch.rand(SHAPE)], "data_samples": [sample]})
    model.eval()
    # MMEngine 0.10 takes the inputs or their shape; the script gives both.
    return get_model_complexity_info(model, inputs=data["inputs"], show_table=False, show_arch=False)


@pytest.fixture
def demo():
    """Return a function that builds the demo's model; keyword arguments override all of its parts."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    import ndpp_dense.integrations.mmseg  # noqa: F401
    from ndpp_dense.config_files import find_config

    def build(plain=False, **parts):
        init_default_scope("mmseg")
        config = Config.fromfile(str(find_config("deeplabv3_ndpp_demo"))).model
        if plain:
            del config["ndpp"]
            config.type = "EncoderDecoder"
        for part in ("backbone", "decode_head", "auxiliary_head"):
            config[part].update(copy.deepcopy(parts))
        return MODELS.build(config)

    return build


def test_a_folded_model_is_as_cheap_as_a_plain_one_without_norms(demo):
    model, plain = demo(), counts(demo(plain=True, **NO_NORM))
    folded = counts(fold_ndpp(model))
    assert plain["flops"] > 1e8
    assert folded["flops"] == pytest.approx(plain["flops"], rel=0.02)
    assert folded["activations"] == pytest.approx(plain["activations"], rel=0.02)
    converted = dict(nd_layers(model))
    biases = sum(layer.out_channels for name, layer in converted.items() if not name.startswith("auxiliary_head"))
    assert folded["params"] == plain["params"] + biases


def test_an_unfolded_model_is_dearer_by_the_whitening_of_its_weights(demo):
    model = demo()
    counted = counts(model)["flops"] - counts(fold_ndpp(model))["flops"]
    products = 0  # W D, and what the mean adds to the bias
    for name, layer in nd_layers(model):
        if not name.startswith("auxiliary_head"):
            dim = layer.whitening.running_mean.shape[1]
            products += layer.weight.numel() * (dim + 1)
    assert counted == pytest.approx(products, rel=0.02)
