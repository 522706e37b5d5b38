"""Asked to stop, a run saves; a config fits other numbers of processes."""

import os
import signal

import pytest

from ndpp_dense.distributed.stopping import StoppedEarly, watching_for_stop
from ndpp_dense.integrations.detectron2.run_config import build_config
from ndpp_dense.integrations.detectron2.trainer import NDTrainer

pytestmark = pytest.mark.detectron2
LENGTH = ("MODEL.META_ARCHITECTURE", "NDPPModel", "MODEL.NDPP.VERIFY", False, "SOLVER.MAX_ITER", 4)


def test_a_stopped_run_resumes_to_the_same_bits(run_tiny, differences, monkeypatch, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    run_tiny(*LENGTH, "OUTPUT_DIR", whole)
    step = NDTrainer.run_step

    def signalled(trainer):
        if trainer.iter == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        step(trainer)

    with monkeypatch.context() as patch, watching_for_stop():
        patch.setattr(NDTrainer, "run_step", signalled)
        with pytest.raises(StoppedEarly, match=r"after iteration 2 of 4: .*model_0000001.pth is complete"):
            run_tiny(*LENGTH, "OUTPUT_DIR", halves)
    run_tiny(*LENGTH, "OUTPUT_DIR", halves, resume=True)
    assert differences(whole / "model_final.pth", halves / "model_final.pth") == []


def test_batch_and_schedule_follow_the_processes(tiny_config, tiny_coco, tmp_path):
    cfg, remarks = build_config(
        str(tiny_config),
        datasets=tiny_coco,
        output=str(tmp_path),
        overrides=["SOLVER.IMS_PER_BATCH", "8"],
        auto_scale=4,
    )
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (2, 0.0025, 32)
    assert "scaled from 4 to 1 process(es):" in remarks
    assert "  SOLVER.IMS_PER_BATCH 8 -> 2" in remarks
    with pytest.raises(ValueError, match="--auto-scale 3: a batch of 2 does not split"):
        build_config(str(tiny_config), datasets=tiny_coco, output=str(tmp_path), auto_scale=3)
