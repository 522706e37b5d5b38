"""Attention whose projections are layers: the same results as PyTorch's, and reached by conversion on request."""

from __future__ import annotations

import copy
import itertools
import warnings

import pytest
import torch
from torch import nn

from ndpp_dense import WhiteningConfig, calibrate_ndpp, convert_to_ndpp, fold_ndpp
from ndpp_dense.conversion.attention import SplitAttention
from ndpp_dense.layers import nd_layers

SPLIT = {"MultiheadAttention": True}
MASKS = {
    "none": None,
    "bool": torch.tensor([[False] + [i % 3 == 1] * 3 + [False] * 3 for i in range(5)]),
    "float": torch.linspace(-2, 2, 35).view(5, 7),
    "by head": torch.linspace(-2, 2, 420).view(12, 5, 7),
}
PADDING = torch.arange(7).expand(3, 7) > 5


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Support for mismatched")
        yield


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(
    ("batch_first", "width", "bias"), [*itertools.product((False, True), (None, 12), (True, False))]
)
def test_results_are_those_of_pytorch(batch_first, width, bias, mask):
    plain = nn.MultiheadAttention(16, 4, bias=bias, kdim=width, vdim=width, batch_first=batch_first)
    split = SplitAttention(plain)
    query, key = torch.randn(3, 5, 16), torch.randn(3, 7, width or 16)
    if not batch_first:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    for need, average, padding in itertools.product((True, False), (True, False), (None, PADDING)):
        words = {"need_weights": need, "average_attn_weights": average, "attn_mask": MASKS[mask]}
        expected, got = (m(query, key, key, key_padding_mask=padding, **words) for m in (plain, split))
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)


def test_gradients_unbatched_inputs_and_causal_hints_are_those_of_pytorch():
    plain = nn.MultiheadAttention(16, 4)
    split = SplitAttention(plain)
    x, y = (torch.randn(5, 16).requires_grad_() for _ in range(2))
    y.data.copy_(x.data)
    mask = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
    words = {"attn_mask": mask, "is_causal": True, "need_weights": False}
    expected, got = plain(x, x, x, **words)[0], split(y, y, y, **words)[0]
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
    expected.sum().backward()
    own = plain.out_proj.weight.grad.clone()
    plain.out_proj.weight.grad = None
    got.sum().backward()
    torch.testing.assert_close(y.grad, x.grad, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(split.out_proj.weight.grad, own)
    whole = torch.cat([getattr(split, name).weight.grad for name in ("q_proj", "k_proj", "v_proj")])
    torch.testing.assert_close(whole, plain.in_proj_weight.grad, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="give attn_mask too"):
        split(y, y, y, is_causal=True)


@pytest.mark.parametrize("width", [None, 12])
def test_checkpoints_of_pytorchs_attention_load(width):
    plain, other = (nn.MultiheadAttention(16, 4, kdim=width, vdim=width) for _ in range(2))
    split = SplitAttention(other)
    split.load_state_dict(plain.state_dict())
    x, key = torch.randn(5, 3, 16), torch.randn(7, 3, width or 16)
    torch.testing.assert_close(split(x, key, key), plain(x, key, key), atol=1e-6, rtol=1e-5)
    split.load_state_dict(copy.deepcopy(split.state_dict()))


class Translator(nn.Module):
    """Encoder and decoder: self attention, cross attention, and layers that know a fused kernel."""

    def __init__(self):
        super().__init__()
        self.net = nn.Transformer(32, 4, 2, 1, 64, dropout=0.0, batch_first=True)

    def forward(self, x):
        return self.net(x, x.flip(1))


def test_conversion_reaches_every_projection_of_a_transformer_and_folds():
    model = Translator()
    report = convert_to_ndpp(model, WhiteningConfig.fast("imagenet"), SPLIT, example=torch.randn(2, 6, 32))
    names = {name for name, _ in nd_layers(model)}
    assert "net.decoder.layers.0.multihead_attn.k_proj" in names
    assert len(names) == 4 * 4 + 2 * 3  # four attentions, three pairs of linear layers
    assert not [record for record in report.records if record.action == "left"]
    x = torch.randn(4, 6, 32)
    report.verify(model, x)
    for _ in range(3):
        model(x).sum().backward()
    assert all(layer.weight.grad.abs().sum() > 0 for _, layer in nd_layers(model))
    model.eval()
    with torch.no_grad():
        folded = fold_ndpp(model)
        torch.testing.assert_close(folded(x), model(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("grad", [True, False])
def test_without_whitening_a_transformer_is_the_original(grad):
    model = Translator().eval()
    split = copy.deepcopy(model)
    convert_to_ndpp(split, WhiteningConfig.fast("imagenet").override({"local_scale": "none"}), SPLIT)
    split.eval()
    x = torch.randn(2, 6, 32)
    with torch.set_grad_enabled(grad):  # D is the identity before the first step
        torch.testing.assert_close(split(x), model(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rules", [SPLIT, {"net.encoder.layers.0.self_attn": True}], ids=["type", "name"])
def test_calibration_keeps_the_function(rules):
    model = Translator().eval()
    x = [torch.randn(8, 40, 32) for _ in range(2)]
    with torch.no_grad():
        before = model(x[0])
    config = WhiteningConfig.fast("imagenet").override({"local_scale": "none"})
    calibrate_ndpp(model, x, config, rules)
    assert "net.encoder.layers.0.self_attn.q_proj" in {name for name, _ in nd_layers(model)}
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x[0]), before, atol=1e-4, rtol=1e-3)


def test_names_and_patterns_choose_which_attention_is_split():
    model = Translator()
    convert_to_ndpp(model, rules={"net.encoder.*.self_attn": True, "net.encoder.layers.0.self_attn.v_proj": False})
    kinds = {name: type(m).__name__ for name, m in model.named_modules() if name.endswith("attn")}
    assert [kinds[f"net.encoder.layers.{i}.self_attn"] for i in (0, 1)] == ["SplitAttention"] * 2
    assert kinds["net.decoder.layers.0.multihead_attn"] == "MultiheadAttention"
    names = {name for name, _ in nd_layers(model)}
    assert "net.encoder.layers.0.self_attn.q_proj" in names
    assert "net.encoder.layers.0.self_attn.v_proj" not in names


def test_by_default_attention_is_left_and_the_report_names_the_rule():
    model = Translator()
    report = convert_to_ndpp(model)
    reasons = {record.reason for record in report.records if record.kind == "MultiheadAttention"}
    assert reasons == {"its projections are one parameter; the rule 'MultiheadAttention': True makes them layers"}


def test_what_cannot_be_split_is_left_with_the_reason():
    class Own(nn.MultiheadAttention):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    for attention, reason in (
        (nn.MultiheadAttention(8, 2, add_bias_kv=True), "add_bias_kv"),
        (nn.MultiheadAttention(8, 2, add_zero_attn=True), "add_zero_attn"),
        (Own(8, 2), "a forward of its own"),
    ):
        model = nn.ModuleDict({"a": attention, "b": nn.Linear(8, 8)})
        report = convert_to_ndpp(model, rules=SPLIT)
        assert model["a"] is attention
        assert [reason in record.reason for record in report.records if record.name == "a"] == [True]
        with pytest.raises(ValueError, match="cannot be split"):
            SplitAttention(attention)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"net.encoder.layers.0.self_attn": {"eps": 0.1}}, "True .split its projections into layers., False"),
        ({"MultiheadAttention": {"eps": 0.1}}, "rule 'MultiheadAttention' has the value"),
        ({**SPLIT, "net.nothing": True}, "match no linear, norm or attention layer"),
    ],
)
def test_a_refused_rule_leaves_the_model_as_it_was(rules, words):
    model = Translator()
    before = dict(model.named_modules())
    with pytest.raises(ValueError, match=words):
        convert_to_ndpp(model, rules=rules)
    assert dict(model.named_modules()) == before


@pytest.mark.parametrize("rules", [None, SPLIT])
def test_a_padding_mask_is_no_obstacle_to_calibration(rules):
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()  # which makes nested tensors of padded rows
    x, padding = torch.randn(16, 9, 16), torch.zeros(16, 9, dtype=torch.bool)
    padding[0, 5:] = True
    before = model(x, src_key_padding_mask=padding).detach()[~padding]
    config = WhiteningConfig.fast("imagenet").override({"local_scale": "none"})
    forward = lambda module, batch: module(batch, src_key_padding_mask=padding)  # noqa: E731
    calibrate_ndpp(model, [x] * 2, config, rules, forward=forward)
    assert torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad():
        after = forward(model.eval(), x)[~padding]
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-3)


def test_what_conversion_can_not_do_is_said():
    with pytest.raises(ValueError, match="A lone MultiheadAttention cannot be replaced in place"):
        convert_to_ndpp(nn.MultiheadAttention(16, 4), rules=SPLIT)
    with pytest.raises(ValueError, match="rules = 'MultiheadAttention' is no mapping"):
        convert_to_ndpp(Translator(), rules="MultiheadAttention")
    with pytest.raises(ValueError, match=r"rules = \[\] is no mapping"):
        convert_to_ndpp(Translator(), rules=[])
    model = Translator()
    convert_to_ndpp(model, rules=SPLIT)
    with pytest.raises(ValueError, match="The model has 22 ND.. layers already, and nothing was converted"):
        convert_to_ndpp(model)
