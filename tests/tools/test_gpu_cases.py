"""The cases of the GPU report: what they compute in, and on a GPU what only that can show."""

import pytest
import torch
from bench.case import Settings, images, training_step
from bench.gpu import cases as gpu_cases
from bench.gpu.sync_batch_norm import synchronised_alone
from bench.timing import graphed
from torch import nn

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SMALL = Settings(rehearse=True)


def test_inference_is_in_the_type_that_its_case_names():
    cases = {case.name: case for case in gpu_cases.inference_cases(SMALL)}
    for name, label in [("bf16", "BN folded"), ("bf16", "ND++ folded"), ("fp16", "BN"), ("fp16", "ND++ converted")]:
        y = cases[f"batch 1, {name}, eager"].peers[label]()()
        assert (y.dtype, y.isfinite().all().item()) == (gpu_cases.DTYPES[name], True), label
    with pytest.raises(NotImplementedError, match="no CUDA graph"):
        cases["batch 1, bf16, CUDA graphs"].peers["BN"]()


def test_peers_of_training_differ_in_what_they_are_named_for():
    found = {label: gpu_cases._backbone_step(label, SMALL).__closure__ for label in gpu_cases.BACKBONE}
    models = {label: next(c.cell_contents for c in cells if isinstance(c.cell_contents, nn.Module)) for label, cells in
              found.items()}  # fmt: skip
    kinds = {label: {type(module).__name__ for module in model.modules()} for label, model in models.items()}
    assert "SyncBatchNorm" in kinds["SyncBN"]
    assert "GroupNorm" in kinds["GN"]
    assert "IterNorm2d" in kinds["IterNorm"]
    assert all("NDConv2d" in kinds[label] and "BatchNorm2d" not in kinds[label] for label in kinds if "ND++" in label)


def test_sizes_are_those_that_were_asked_for():
    """Of a GPU: nothing is built before it is measured."""
    settings = Settings(device="cpu", amp=True, channels_last=True)
    names = {make.__name__: [case.name for case in make(settings)] for make in (
        gpu_cases.backbone_cases, gpu_cases.detector_cases, gpu_cases.segmentor_cases, gpu_cases.inference_cases
    )}  # fmt: skip
    assert names["backbone_cases"] == ["batch 64, 224 px", "batch 64, 224 px, CUDA graphs"]
    assert names["detector_cases"] == ["batch 4, 800 x 1344 px"]
    assert names["segmentor_cases"] == ["batch 4, 512 x 1024 px"]
    assert len(names["inference_cases"]) == 12
    assert {name.split(",")[0] for name in names["inference_cases"]} == {"batch 1", "batch 32"}


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_synchronised_batch_norm_alone_is_batch_norm(layout):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).cuda()
    settings = Settings(device="cuda")
    alone = synchronised_alone(nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(*plain)), settings)
    twin = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).cuda()
    twin.load_state_dict(alone.state_dict())
    x = torch.randn(4, 3, 16, 16, device="cuda").to(memory_format=layout)
    y, z = alone(x), twin(x)
    torch.testing.assert_close(y, z, rtol=1e-4, atol=1e-4)
    for out in (y, z):
        out.pow(3).mean().backward()
    torch.testing.assert_close(alone[0].weight.grad, twin[0].weight.grad, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(alone[1].running_var, twin[1].running_var, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("label", ["BN", "ND++ fast", "ND++ fast, every=4", "ND++ fast, stale"])
def test_steps_are_captured(label):
    settings = Settings(device="cuda", amp=True, channels_last=True, rehearse=True)
    replay = graphed(gpu_cases._backbone_step(label, settings), torch.cuda.graph_pool_handle())
    for _ in range(3):
        replay()
    torch.cuda.synchronize()


@pytest.mark.gpu
@needs_gpu
def test_graphs_that_share_memory_do_not_disturb_one_another():
    settings, pool = Settings(device="cuda"), torch.cuda.graph_pool_handle()
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        models.append(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).cuda())
    steps = [training_step(model, images(2, 16, settings), settings) for model in models]
    replays = [graphed(step, pool) for step in steps]
    states = [model[1].num_batches_tracked.item() for model in models]
    for replay in (*replays, *replays[::-1]):
        replay()
    torch.cuda.synchronize()
    assert [model[1].num_batches_tracked.item() for model in models] == [state + 2 for state in states]
    assert all(model[1].running_var.isfinite().all() for model in models)
