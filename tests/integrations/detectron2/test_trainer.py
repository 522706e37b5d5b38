"""The training step: accumulation, precision, statistics, and what a run leaves behind."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ndpp_dense import NDConv2d, WhiteningConfig, nd_layers
from ndpp_dense.integrations.detectron2.run_config import build_config
from ndpp_dense.integrations.detectron2.trainer import NDTrainer
from ndpp_dense.layers.statistics.steps import watch_steps

pytestmark = pytest.mark.detectron2
NDPP = ("MODEL.META_ARCHITECTURE", "NDPPModel", "MODEL.NDPP.VERIFY", False, "MODEL.NDPP.STATISTICS", "batch")


@META_ARCH_REGISTRY.register()
class MeanColour(nn.Module):
    """A model whose loss is a plain mean over images, so that micro-batches add up exactly."""

    def __init__(self, cfg):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.whitened = NDConv2d(3, 2, 1, config=WhiteningConfig())
        self.seen = []

    @property
    def device(self):
        return self.conv.weight.device

    def forward(self, batch):
        self.seen.append(len(batch))
        images = [sample["image"].float() / 255 for sample in batch]
        loss = torch.stack([self.conv(image).square().mean() for image in images]).mean()
        corners = torch.stack([image[:, :8, :8] for image in images])
        return {"loss_colour": loss, "loss_whitened": 0 * self.whitened(corners).sum()}


@pytest.fixture
def start(build_tiny):
    def build(*overrides):
        torch.manual_seed(0)
        trainer = NDTrainer(build_tiny(*overrides))
        trainer.cfg.defrost()
        trainer.cfg.DATASETS.TEST = ()
        trainer._hooks = [hook for hook in trainer._hooks if "Eval" not in type(hook).__name__]
        return trainer

    return build


@META_ARCH_REGISTRY.register()
class MeanWhitened(MeanColour):
    """One whose loss is that of a layer with the statistics of the steps before."""

    def __init__(self, cfg):
        super().__init__(cfg)
        self.whitened = NDConv2d(3, 2, 1, config=WhiteningConfig(schedule="stale", sampling_stride=1))
        watch_steps(self)

    def forward(self, batch):
        corners = torch.stack([sample["image"][:, :8, :8].float() / 255 for sample in batch])
        self.seen.append(len(batch))
        return {"loss_whitened": self.whitened(self.conv(corners)).square().mean()}


TOY = ("MODEL.META_ARCHITECTURE", "MeanColour", "SOLVER.IMS_PER_BATCH", 4, "DATALOADER.ASPECT_RATIO_GROUPING", False)


def test_micro_batches_add_up_to_the_whole_batch(start):
    whole = start(*TOY, "SOLVER.MAX_ITER", 3)
    parts = start(*TOY, "SOLVER.MAX_ITER", 3, "SOLVER.ACCUMULATION_STEPS", 2)
    whole.train()
    parts.train()
    assert (set(whole.net.seen), set(parts.net.seen)) == ({4}, {2})
    for a, b in zip(whole.net.parameters(), parts.net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_statistics_move_once_a_step(start):
    trainer = start(*TOY, "SOLVER.MAX_ITER", 1, "SOLVER.ACCUMULATION_STEPS", 4)
    trainer.train()
    assert trainer.net.seen == [1, 1, 1, 1]
    assert trainer.net.whitened.whitening.running_weight.item() == pytest.approx(trainer.net.whitened.config.momentum)


def test_bfloat16_trains_without_loss_scaling(start):
    trainer = start("SOLVER.AMP.ENABLED", True, "SOLVER.MAX_ITER", 1)
    dtypes = []
    trainer.net.backbone.fpn_output2.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    trainer.train()
    assert not trainer.scaler.is_enabled()
    assert dtypes == [torch.bfloat16]
    assert next(trainer.net.parameters()).dtype == torch.float32


def test_stale_statistics_are_those_of_all_micro_batches(start):
    words = ("MODEL.META_ARCHITECTURE", "MeanWhitened", *TOY[2:], "SOLVER.MAX_ITER", 4, "SOLVER.BASE_LR", 0.1)
    whole, parts = start(*words), start(*words, "SOLVER.ACCUMULATION_STEPS", 2)
    whole.train(), parts.train()
    assert parts.net.seen == [4] + [2] * 8  # before the first step the whole batch, without gradients
    for (name, value), other in zip(whole.net.state_dict().items(), parts.net.state_dict().values(), strict=True):
        torch.testing.assert_close(other, value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_float16_scales_the_loss(start):
    trainer = start("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "float16", *TOY)
    assert trainer.scaler.is_enabled()
    assert trainer.state_dict()["scaler"]["scale"] > 1


def test_an_unknown_precision_names_the_choices(build_tiny):
    with pytest.raises(ValueError, match="'half'; the choices are bfloat16, float16"):
        NDTrainer(build_tiny("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "half"))


def test_unused_parameters_are_named_before_ddp_counts_them(start, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        trainer = start(*TOY, "SOLVER.MAX_ITER", 2)
        trainer.net.idle = nn.Linear(2, 2)
        trainer.model = DistributedDataParallel(trainer.net)
        with pytest.raises(ValueError, match="2 parameters took no part.*idle.weight, idle.bias.*FIND_UNUSED"):
            trainer.train()
    finally:
        torch.distributed.destroy_process_group()


def test_gradients_are_clipped(start):
    clip = ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 1e-6, "SOLVER.BASE_LR", 1.0)
    trainer = start(*TOY, *clip, "SOLVER.MAX_ITER", 1, "SOLVER.WEIGHT_DECAY", 0.0, "SOLVER.WARMUP_ITERS", 0)
    before = trainer.net.conv.weight.detach().clone()
    trainer.train()
    change = (trainer.net.conv.weight - before).abs().max()
    assert 0 < change <= 1.01e-6


def test_saved_models_hold_new_statistics_and_the_run_keeps_its_own(start, tmp_path):
    trainer = start(*NDPP, "SOLVER.MAX_ITER", 2, "SOLVER.CHECKPOINT_PERIOD", 1, "OUTPUT_DIR", tmp_path)
    trainer.train()
    name, layer = next(nd_layers(trainer.net))
    entry = f"{name}.whitening.running_whitening"
    saved = torch.load(tmp_path / "model_final.pth", weights_only=True)
    own = saved["trainer"]["hooks"]["StatsHook"]["own"][entry]
    identity = torch.eye(own.shape[-1]).expand_as(own)
    # Two steps at momentum 0.1 have gone a fifth of the way from the identity; the estimate has gone all of it.
    assert (own - identity).norm() < 0.4 * (saved["model"][entry] - identity).norm()
    assert torch.equal(saved["model"][entry], layer.whitening.running_whitening)


def test_images_without_objects_train(tiny_config, tiny_coco, tmp_path):
    name, _, paths = tiny_coco[0].partition("=")
    annotations, _, images = paths.partition(":")
    content = json.loads(Path(annotations).read_text())
    content["annotations"] = content["annotations"][:2]
    (tmp_path / "empty.json").write_text(json.dumps(content))
    words = [*map(str, NDPP), "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False", "SOLVER.MAX_ITER", "4"]
    flag = f"empty_{name}={tmp_path / 'empty.json'}:{images}"
    cfg, _ = build_config(str(tiny_config), datasets=[flag, tiny_coco[1]], output=str(tmp_path), overrides=words)
    trainer = NDTrainer(cfg)
    assert len(trainer.data.dicts) == 9
    trainer.train()
    assert all(parameter.isfinite().all() for parameter in trainer.net.parameters())


def test_a_run_leaves_results_curves_and_pictures(run_tiny, tmp_path):
    periods = ("SOLVER.CHECKPOINT_PERIOD", 1, "TEST.EVAL_PERIOD", 2)
    trainer = run_tiny("SOLVER.MAX_ITER", 5, *periods, "OUTPUT_DIR", tmp_path)
    names = {file.name for file in tmp_path.iterdir()}
    pictures = {"curves.png", "predictions.png", "results.json", "metrics.json", "config.yaml", "log.txt"}
    checkpoints = {"model_0000003.pth", "model_0000004.pth", "model_best.pth", "model_final.pth", "last_checkpoint"}
    assert pictures | checkpoints <= names
    assert "model_0000002.pth" not in names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert set(json.loads((tmp_path / "results.json").read_text())) == {"bbox", "segm"} == set(trainer.results)
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert any("segm/AP" in line for line in lines)
    assert {"total_loss", "lr", "data_time", "loss_mask"} <= lines[0].keys()
    assert set(torch.load(tmp_path / "model_best.pth", weights_only=True)) == {"model", "iteration"}


def test_the_best_value_survives_an_interruption(run_tiny, tmp_path):
    words = ("TEST.EVAL_PERIOD", 1, "SOLVER.CHECKPOINT_PERIOD", 1, "OUTPUT_DIR", tmp_path)
    run_tiny("SOLVER.MAX_ITER", 2, *words)
    trainer = NDTrainer(run_tiny("SOLVER.MAX_ITER", 2, *words, resume=True).cfg)
    trainer.resume_or_load(resume=True)
    best = next(hook for hook in trainer._hooks if type(hook).__name__ == "BestHook")
    assert best.best_metric is not None
