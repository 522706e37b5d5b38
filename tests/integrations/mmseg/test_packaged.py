"""Architectures of MMSegmentation's own configs, as they are, converted without a rule."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS

from ndpp_dense.integrations.mmseg import to_ndpp

pytestmark = pytest.mark.mmseg

PACKAGED = {  # and what must be among the reasons for layers that stay
    "ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py": "prediction layer",
    "pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py": "prediction layer",
    "knet/knet-s3_r50-d8_pspnet_8xb2-adamw-80k_ade20k-512x512.py": "something else reads its weight",
    "segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py": "something else reads its weight",
    "segmenter/segmenter_vit-t_mask_8xb1-160k_ade20k-512x512.py": "something else reads its weight",
    "twins/twins_pcpvt-s_fpn_fpnhead_8xb4-80k_ade20k-512x512.py": "something else reads its weight",
}


@pytest.mark.parametrize("name", PACKAGED, ids=lambda name: name.partition("/")[0])
def test_packaged_architectures_convert_without_a_rule(name):
    import mmseg
    from mmseg.utils import register_all_modules

    register_all_modules()
    config = Config.fromfile(Path(mmseg.__file__).parent / ".mim" / "configs" / name).model
    config["pretrained"] = None
    config["backbone"]["init_cfg"] = None
    model = revert_sync_batchnorm(MODELS.build(config))
    report = to_ndpp(model).ndpp_report
    assert any(record.reason.startswith(PACKAGED[name]) for record in report.records if record.action == "left")
    assert len(set(report.converted) - report.ran) <= 2  # auxiliary heads that run in training only
