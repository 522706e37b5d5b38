"""Segmentors that start as ND++ with the function of weights that were trained with batch norm."""

import copy

import pytest
import torch

pytest.importorskip("mmseg", reason="MMSegmentation is not installed: pip install 'ndpp-dense[mmseg]'")

from ndpp_dense import nd_layers
from ndpp_dense.training.prepare import NORM_RULES

pytestmark = pytest.mark.mmseg

SMALL = {"block_size": 4, "block_size_spatial": 1, "block_size_linear": 4, "sampling_stride": 1, "calibrate_batches": 3}


@pytest.fixture
def plain(run_config):
    """Returns a function that builds the small demo's plain model, as after training."""
    from mmengine.registry import MODELS, init_default_scope

    def build():
        init_default_scope("mmseg")
        settings = run_config().model.to_dict()
        del settings["ndpp"]
        torch.manual_seed(3)
        model = MODELS.build({**settings, "type": "EncoderDecoder"})
        generator = torch.Generator().manual_seed(0)
        for module in model.modules():
            if getattr(module, "running_mean", None) is not None:
                module.running_mean.uniform_(-0.3, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
                module.weight.data.uniform_(0.5, 1.2, generator=generator)
                module.bias.data.uniform_(-0.3, 0.3, generator=generator)
        return model.eval()

    return build


@pytest.fixture
def start(run_config):
    """Returns a function that builds a runner which calibrates."""
    from ndpp_dense.integrations.mmengine.runner import NDPPRunner

    def make(work_dir="run", resume=False, **options):
        ndpp = {"calibrate": True, **SMALL, **options.pop("ndpp", {})}
        config = run_config(work_dir, model__ndpp=ndpp, **options)
        config.resume = resume
        return NDPPRunner.from_cfg(config)

    return make


def save(model, path, drop=()):
    state = {name: value for name, value in model.state_dict().items() if not name.startswith(tuple(drop) or ("-",))}
    torch.save({"state_dict": state, "meta": {}}, path)
    return str(path)


def losses(model, batch):
    with torch.no_grad():
        data = model.data_preprocessor(copy.deepcopy(batch), True)
        return {name: float(value) for name, value in model.eval()(**data, mode="loss").items()}


def test_a_whole_segmentor_starts_with_the_same_losses(plain, start, tmp_path):
    original = plain()
    file = save(original, tmp_path / "plain.pth")
    runner = start(load_from=file, ndpp={"local_scale": "none"})
    model = runner.model
    assert not [record for record in model.ndpp_report.records if record.action == "kept"]
    batch = next(iter(runner.build_dataloader(runner._train_dataloader, seed=5)))
    assert losses(model, batch) == pytest.approx(losses(original, batch), rel=1e-3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    runner.train()  # which must not load or initialise again
    moved = [name for name, value in model.state_dict().items() if not value.equal(before[name])]
    assert len(moved) > len(before) / 2
    held = torch.load(tmp_path / "run" / "iter_4.pth", weights_only=False)[NORM_RULES]
    assert set(held) == set(runner.model.ndpp_report.dropped_norms)
    assert all(held.values())


def test_heads_without_weights_start_anew(plain, start, tmp_path, monkeypatch):
    from ndpp_dense.integrations.mmengine.runner import NDPPRunner

    initial, load = {}, NDPPRunner._load

    def recorded(runner, model):
        given = load(runner, model)
        initial.update(copy.deepcopy(model.state_dict()))
        return given

    monkeypatch.setattr(NDPPRunner, "_load", recorded)
    file = save(plain(), tmp_path / "plain.pth", drop=("decode_head.", "auxiliary_head."))
    runner = start(load_from=file)
    layers = dict(nd_layers(runner.model))
    new = [name for name in layers if not name.startswith("backbone.")]
    assert new
    for name, layer in layers.items():  # as MMSegmentation initialises them, or times the inverse of D
        assert layer.weight.equal(initial[f"{name}.weight"]) == (name in new)
        assert float(layers[name].whitening.running_weight) > 0


def test_a_backbone_that_init_cfg_names(plain, start, tmp_path):
    file = save(plain(), tmp_path / "plain.pth")
    init = {"type": "Pretrained", "checkpoint": file, "prefix": "backbone."}
    model = start(model__backbone__init_cfg=init, ndpp={"local_scale": "none"}).model
    x = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        for got, expected in zip(model.eval().backbone(x), plain().backbone(x), strict=True):
            assert ((got - expected).norm() / expected.norm()).item() < 1e-2  # after folding in float32


def test_a_run_goes_on_where_it_was_and_is_not_calibrated_again(plain, start, tmp_path, monkeypatch, same_weights):
    from ndpp_dense.integrations.mmengine.runner import NDPPRunner

    file = save(plain(), tmp_path / "plain.pth")
    whole = start("whole", load_from=file)
    whole.train()
    monkeypatch.setattr(NDPPRunner, "_calibrate", _never)
    again = start("whole", resume=True, load_from=str(tmp_path / "whole" / "iter_2.pth"))
    again.train()
    assert same_weights(again.model.state_dict(), whole.model.state_dict()) == []


def _never(*args):
    raise AssertionError("calibrated again")


def test_what_cannot_be_calibrated(plain, start, train, tmp_path):
    with pytest.raises(ValueError, match="starts from trained weights, and none are named: give --weights FILE"):
        start()
    torch.save({"state_dict": {"other.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"none of the .* weights of the model is in"):
        start(load_from=str(tmp_path / "other.pth"))
    with pytest.raises(ValueError, match="calibrate_batches = 0, it must be a whole number >= 1"):
        start(ndpp={"calibrate_batches": 0})
    with pytest.raises(ValueError, match="runner_type='NDPPRunner'"):  # MMEngine's own runner would train from scratch
        train(model__ndpp={"calibrate": True, **SMALL})
