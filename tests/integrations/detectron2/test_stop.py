"""Asked to stop, a run saves; a config fits other numbers of processes."""

import json
import os
import signal

import pytest

from ndpp_dense.distributed.stopping import StoppedEarly, watching_for_stop
from ndpp_dense.integrations.detectron2 import evaluation, trainer
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


@pytest.mark.parametrize(("number", "after"), [(signal.SIGTERM, 2), (signal.SIGINT, 4)])
def test_a_run_stopped_while_it_evaluates_makes_up_for_it(run_tiny, differences, monkeypatch, tmp_path, number, after):
    evaluate, seen = trainer.evaluate, []

    def signalled(cfg, model):
        if seen.append(None) or len(seen) == after // 2:
            monkeypatch.setattr(evaluation.CheckedDatasetMapper, "__call__", signal_once(number, counted := []))
            try:
                return evaluate(cfg, model)
            finally:
                assert len(counted) <= 2  # of three images
                monkeypatch.undo()
        return evaluate(cfg, model)

    monkeypatch.setattr(trainer, "evaluate", signalled)
    halves = tmp_path / "halves"
    with watching_for_stop(), pytest.raises(StoppedEarly) as stopped:
        run_tiny(*EVALUATED, "OUTPUT_DIR", halves)
    assert stopped.value.code == (130 if number == signal.SIGINT else 75)
    assert ("--resume evaluates it" if after == 4 else "model_0000001.pth is complete") in str(stopped.value)
    assert aps(halves) == aps(halves)[: after // 2 - 1]
    if after == 4:  # the weights are complete
        assert (halves / "model_final.pth").is_file()
        return
    whole = tmp_path / "whole"
    run_tiny(*EVALUATED, "OUTPUT_DIR", whole)
    run_tiny(*EVALUATED, "OUTPUT_DIR", halves, resume=True)
    for name in ("model_final.pth", "model_best.pth"):
        assert differences(whole / name, halves / name) == [], name
    assert aps(halves) == aps(whole)


EVALUATED = (*LENGTH, "TEST.EVAL_PERIOD", 2)


def signal_once(number, counted):
    read = evaluation.CheckedDatasetMapper.__call__

    def reading(mapper, record):
        counted.append(record)
        if len(counted) == 1:
            os.kill(os.getpid(), number)
        return read(mapper, record)

    return reading


def aps(folder):
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [(row["iteration"], row["bbox/AP"]) for row in rows if "bbox/AP" in row]


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
