import hashlib
import json
import os
import pickle
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ndpp_dense import WhiteningConfig, convert_to_ndpp, load_checkpoint, nd_layers, update_stats
from ndpp_dense.zoo import ZooError, ZooFile, load_into
from ndpp_dense.zoo.packing import pack, unpack
from ndpp_dense.zoo.publish import write_weights
from ndpp_dense.zoo.weights import read_verified


def _network(**override):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    convert_to_ndpp(network, WhiteningConfig.fast("imagenet").override({"sampling_stride": 1, **override}))
    update_stats(network, [torch.randn(8, 3, 16, 16) for _ in range(3)], num_batches=3)
    return network.eval()


def _configs(network):
    return {name: layer.config for name, layer in nd_layers(network)}


def _relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.fixture
def published(zoo):
    network = _network()
    index = zoo()
    row = write_weights(replace(index.models["toy"], files=()), network.state_dict(), _configs(network), index)
    return network, replace(index, models={"toy": row})


def test_packed_weights_are_small_and_the_same_to_rounding():
    network = _network()
    state = network.state_dict()
    packed, facts = pack(state, _configs(network))
    back = unpack(packed, json.loads(json.dumps(facts)))
    assert back.keys() == state.keys()
    size = lambda entries: sum(value.numel() * value.element_size() for value in entries.values())  # noqa: E731
    assert size(packed) < 0.3 * size(state)
    assert all(value.dtype is torch.float32 and value.shape == state[name].shape for name, value in back.items())
    assert max(_relative(back[name], value) for name, value in state.items() if value.norm()) < 1e-3
    assert all(torch.equal(back[name], back[name].mT) for name in back if name.endswith("running_cov"))


def test_a_d_that_is_no_function_of_the_covariance_is_kept():
    network = _network()
    state = network.state_dict()
    state["0.whitening.running_whitening"] = 2 * state["0.whitening.running_whitening"]
    packed, facts = pack(state, _configs(network))
    assert "0.whitening.running_whitening" in packed
    assert "3.whitening.running_whitening" not in packed
    assert (
        _relative(unpack(packed, facts)["0.whitening.running_whitening"], state["0.whitening.running_whitening"]) < 1e-3
    )


def test_what_half_precision_cannot_hold_stays_single():
    network = _network()
    state = network.state_dict()
    state["3.weight"] = state["3.weight"] * 1e6
    packed, facts = pack(state, _configs(network))
    assert packed["3.weight"].dtype is torch.float32
    assert torch.equal(unpack(packed, facts)["3.weight"], state["3.weight"])


def test_loading_gives_the_outputs_of_the_published_model(published):
    network, index = published
    other = _network()
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    checkpoint = load_checkpoint("toy", other, index=index)
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        assert _relative(other(images), network(images)) < 2e-3
    assert checkpoint.model.name == "toy"
    assert checkpoint.facts["config"] == "toy_config"


def test_the_same_weights_make_the_same_bytes(published, zoo):
    network, index = published
    again = write_weights(replace(index.models["toy"], files=()), network.state_dict(), _configs(network), index)
    assert again == index.models["toy"]


def test_mismatches_are_a_table_and_nothing_is_loaded(published):
    network, index = published
    other = _network(block_size_spatial=8)
    other[7] = nn.Linear(32, 7)
    other.add_module("more", nn.Linear(2, 2))
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ZooError) as caught:
        load_checkpoint("toy", other, index=index)
    lines = str(caught.value).splitlines()
    assert any(line.split() == ["missing", "more.weight", "-", "2x2"] for line in lines)
    assert any(line.split() == ["shape", "7.weight", "10x32", "7x32"] for line in lines)
    assert any(line.endswith("missing, 1 left over, 5 shape") or " missing, " in line for line in lines)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    table = load_checkpoint("toy", index=index)
    assert "7.weight" in load_into(other, table.weights, "toy", strict=False)
    assert torch.equal(other.state_dict()["0.bias"], table.weights["0.bias"])


class _Malicious:
    def __reduce__(self):
        return os.mkdir, (os.environ["NDPP_TEST_TARGET"],)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_that_runs_code_is_refused(zoo, tmp_path, monkeypatch, write):
    monkeypatch.setenv("NDPP_TEST_TARGET", str(tmp_path / "owned"))
    path = tmp_path / "evil.pth"
    write({"model": {"weight": torch.ones(1)}, "extra": _Malicious()}, path)
    index = zoo(content=path.read_bytes(), form="pth")  # its hash is right: the one who made it made the index too
    shipped = index.shipped(index.models["toy"].files[0])
    shipped.parent.mkdir(parents=True)
    shipped.write_bytes(path.read_bytes())
    with pytest.raises(ZooError, match="(is refused|is no file of weights)"):
        load_checkpoint("toy", index=index)
    assert not (tmp_path / "owned").exists()


def test_a_plain_pth_is_read(zoo, tmp_path):
    torch.save({"model": {"weight": torch.ones(2)}, "optimizer": {"lr": 1}}, tmp_path / "x.pth")
    data = (tmp_path / "x.pth").read_bytes()
    file = ZooFile("x.pth", hashlib.sha256(data).hexdigest(), len(data), "pth")
    weights, _ = read_verified(tmp_path / "x.pth", file)
    assert torch.equal(weights["weight"], torch.ones(2))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    data = safetensors.torch.save({"weight": torch.arange(64.0), "bias": torch.ones(3)}, {"ndpp_dense": "{}"})
    torch.save({"weight": torch.arange(64.0)}, folder / "x.pth")
    return folder / "file", {"safetensors": data, "pth": (folder / "x.pth").read_bytes()}


@settings(max_examples=500, deadline=None, derandomize=True)
@given(at=st.integers(0, 10**9), bit=st.integers(0, 7), cut=st.booleans(), form=st.sampled_from(["safetensors", "pth"]))
def test_no_damage_of_a_checkpoint_goes_unseen(damaged, at, bit, cut, form):
    path, contents = damaged
    data = bytearray(contents[form])
    at %= len(data)
    file = ZooFile(f"x.{form}", hashlib.sha256(data).hexdigest(), len(data), form)
    if cut:
        del data[at:]
    else:
        data[at] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(ZooError, match=r"bytes with SHA-256 .* it is damaged or was changed"):
        read_verified(path, file)
    # Also where the hash vouches for the damage: an error with a message, or tensors, but nothing else.
    try:
        weights, _ = read_verified(path, replace(file, sha256=hashlib.sha256(data).hexdigest()))
        assert all(torch.is_tensor(value) for value in weights.values())
    except ZooError as error:
        message = str(error)
    else:
        message = str(path)
    assert str(path) in message
