"""Mixed precision must stay out of the statistics: float32, finite, and those of a run in float32."""

import copy
from contextlib import contextmanager

import pytest
import torch

from ndpp_dense import nd_layers

pytestmark = pytest.mark.mmseg
STEPS = 2
SMALL = {"block_size": 16, "block_size_spatial": 8}  # quickly solved


def cpu_wrapper(**settings):
    """Return what AmpOptimWrapper would be on CPUs, which it refuses."""
    from mmengine.optim import OptimWrapper
    from mmengine.runner.amp import autocast

    class CPUAmpOptimWrapper(OptimWrapper):
        @contextmanager
        def optim_context(self, model):
            with super().optim_context(model), autocast(dtype=torch.bfloat16):
                yield

    return CPUAmpOptimWrapper(**settings)


def statistics(layer):
    return {name: buffer.clone() for name, buffer in layer.whitening.named_buffers()}


def train(model, batch, wrapper):
    """Train as MMEngine's loops do; return the inputs of all layers by step, and their statistics after the first."""
    inputs, first = {name: [] for name, _ in nd_layers(model)}, {}
    for name, layer in nd_layers(model):
        layer.register_forward_pre_hook(lambda layer, x, name=name: inputs[name].append(x[0].detach().clone()))
    model.train()
    wrapper = wrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))
    for _ in range(STEPS):
        assert model.train_step(batch, wrapper)["loss"].isfinite()
        first = first or {name: statistics(layer) for name, layer in nd_layers(model)}
    assert all(parameter.dtype == torch.float32 and parameter.isfinite().all() for parameter in model.parameters())
    return inputs, first


def check(build, batch, wrapper, preset, device, tolerance):
    """Compare with what layers in float32 make of the same inputs, and with a run in float32."""
    from mmengine.optim import OptimWrapper

    model = build(preset=preset, **SMALL).to(device)
    twins = {name: copy.deepcopy(layer) for name, layer in nd_layers(model)}
    _, expected = train(build(preset=preset, **SMALL).to(device), batch, OptimWrapper)
    inputs, first = train(model, batch, wrapper)
    assert {x.dtype for steps in inputs.values() for x in steps} & {torch.bfloat16, torch.float16}
    for name, layer in nd_layers(model):
        for x in inputs[name]:
            twins[name].train()(x.float())
        for buffer, exact in statistics(twins[name]).items():
            tensor = layer.whitening.get_buffer(buffer)
            assert tensor.dtype == torch.float32, name
            assert tensor.isfinite().all(), name
            assert (tensor - exact).norm() <= tolerance * exact.norm(), (name, buffer)
        # Rounded activations go through 20 layers on few pixels, and later steps add those of the weights.
        for buffer in ("running_mean", "running_whitening"):
            difference = (first[name][buffer] - expected[name][buffer]).norm() / expected[name][buffer].norm()
            assert difference < 0.2, (name, buffer)


@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_statistics_on_cpus(build, batch, preset):
    check(build, batch, cpu_wrapper, preset, "cpu", tolerance=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("preset", ["paper", "fast"])
def test_statistics_with_amp_optim_wrapper(build, batch, preset, dtype):
    from mmengine.optim import AmpOptimWrapper

    def wrapper(optimizer):
        return AmpOptimWrapper(dtype=dtype, optimizer=optimizer)

    # In float16 a layer's input is scaled and rounded before anything else.
    check(build, batch, wrapper, preset, "cuda", tolerance=1e-4 if dtype == "bfloat16" else 5e-3)
