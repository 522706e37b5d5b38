"""A training, an evaluation and a stopped run leave a page, after their results."""

import json
import os
import signal

import pytest
import torch

from ndpp_dense.distributed.stopping import StoppedEarly, watching_for_stop
from ndpp_dense.pretrain import run, run_report
from ndpp_dense.pretrain.noted import Noted

CPU = torch.device("cpu")


def test_a_training_leaves_page_and_facts(tree, tiny, tmp_path, monkeypatch):
    written, write = [], run_report.write_run_report
    monkeypatch.setattr(
        run_report, "write_run_report", lambda *words: written.append(sorted(os.listdir(tmp_path))) or write(*words)
    )
    run.train(tiny(epochs=1), tree, tmp_path, CPU)
    assert {"results.json", "last.pth", "curves.png"} <= set(written[0])
    facts = json.loads((tmp_path / "report.json").read_text())
    assert (facts["command"], facts["state"], facts["step"], facts["total"]) == ("pretrain", "finished", 3, 3)
    assert facts["metric"] in facts["curves"]["score"]
    assert facts["results"]["top-1"] == json.loads((tmp_path / "results.json").read_text())["last"]["top1"]
    assert facts["settings"]["lr"] == "0.02"
    assert facts["cost"]["seconds_a_step"] > 0
    assert facts["cost"]["memory"] > 1 << 20
    page = (tmp_path / "report.html").read_text()
    for text in ("n01, taken for n", "Top-1 accuracy by class", "Images of each class", "layers converted to ND++"):
        assert text in page
    run.evaluate_only(tiny(), tree, tmp_path, CPU, resume=True)
    assert "Worst predictions" in (tmp_path / "evaluation.html").read_text()
    assert (tmp_path / "report.html").read_text() == page


def test_a_stopped_run_leaves_one_and_a_failing_one_costs_nothing(tree, tiny, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(run.Pretrainer, "_save_within_epoch", lambda self: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(run_report, "conversion_facts", lambda network: 1 / 0)
    with watching_for_stop(), pytest.raises(StoppedEarly) as stopped:
        run.train(tiny(save_every=1), tree, tmp_path, CPU)
    assert stopped.value.code == 75
    assert "report.html was not drawn (ZeroDivisionError" in caplog.text
    monkeypatch.undo()
    with watching_for_stop():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StoppedEarly):
            run.train(tiny(), tree, tmp_path / "other", CPU)
    assert json.loads((tmp_path / "other" / "report.json").read_text())["state"] == "stopped"


def test_best_and_worst_images_and_accuracy_by_class():
    noted = Noted(3, CPU)
    for start in (0, 4):
        targets = torch.tensor([0, 1, 0, 1])
        logits = torch.zeros(4, 3)
        logits[:, 0] = torch.arange(start, start + 4.0)  # class 0 is ever more sure
        noted.add(torch.full((4, 3, 8, 8), float(start)), targets, logits)
    noted.share()
    assert noted.by_class()[:2] == [(100.0, 4), (0.0, 4)]
    assert noted.by_class()[2][1] == 0
    worst, best = noted.answers("worst"), noted.answers("best")
    assert [answer.target for answer in worst] == [1, 1, 1, 1]
    assert [answer.target for answer in best] == [0, 0, 0, 0]
    assert worst[0].probability < worst[-1].probability < best[-1].probability < best[0].probability
    assert best[0].jpeg().startswith(b"\xff\xd8")
    assert Noted(3, CPU).answers("best") == []
