"""Shared by the integrations: converted weights, and what loading them warns of."""

import logging

import pytest
import torch


@pytest.fixture
def converted_backbone(tmp_path, monkeypatch):
    """Returns a function that makes a backbone, as pretraining leaves it, and converts its file.

    Its arguments are name, options, ND++ settings (or None) and the format to convert to; it returns what the file
    holds, and its path.
    """
    pytest.importorskip("timm", reason="timm is not installed: extra 'pretrain'")
    from ndpp_dense import create_backbone
    from ndpp_dense.backbones.cards import CARDS, BackboneCard
    from ndpp_dense.cli import main

    def make(name, options, ndpp, target):
        monkeypatch.setitem(CARDS, name, BackboneCard(name, 0, 0, None, None, "test", "resnet", options))
        torch.manual_seed(0)
        model = create_backbone(name, 5, ndpp).train()
        model(torch.randn(4, 3, 64, 64))
        trained, file = tmp_path / "best.pth", tmp_path / f"{target}.pth"
        torch.save({"model": model.state_dict(), "config": {"name": name}}, trained)
        assert main(["convert", str(trained), str(file), "--to", target]) == 0
        return torch.load(file, weights_only=True), file

    return make


@pytest.fixture
def collect_warnings():
    """Returns a function that starts to collect, in the list that it returns, what some loggers warn of."""
    texts, attached = [], []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.append(record.getMessage())

    def collect(*loggers):
        for logger in loggers:
            logger.addHandler(handler)
            attached.append(logger)
        return texts

    yield collect
    for logger in attached:
        logger.removeHandler(handler)
