"""The checkpoints that the authors of PfLayer published: by their names the converted weights compute the same."""

import pytest
import torch
from torch import nn

pytest.importorskip("timm", reason="timm is not installed: extra 'pretrain'")

from timm.layers import Mlp  # noqa: E402
from timm.models.vision_transformer import Attention, PatchEmbed  # noqa: E402

from ndpp_dense.backbones import create_backbone  # noqa: E402
from ndpp_dense.backbones.cards import CARDS, R50, BackboneCard  # noqa: E402
from ndpp_dense.cli import main  # noqa: E402
from ndpp_dense.weights.pflayer_names import pflayer_renaming  # noqa: E402

WIDTH, DIM, HEADS = 8, 24, (3, 6)


def pair(inputs, outputs, size=1, stride=1, *more):
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *more)


class Block(nn.Module):
    """A published bottleneck; its attributes are the names in the files."""

    def __init__(self, kind, inputs, width, stride, first):
        super().__init__()
        self.reduction_block = pair(inputs, width, 1, 1, nn.ReLU())
        if kind == "plain":
            self.conv_block = pair(width, width, 3, stride, nn.ReLU())
        elif kind == "hybrid" and stride == 2:
            self.conv_block = nn.Sequential(nn.AvgPool2d(2, 2), pair(width, width, 3, 1, nn.ReLU()))
        else:
            self.conv_block = nn.MaxPool2d(3, stride, 1)
        self.expansion_block = pair(width, 4 * width)
        self.downsample = pair(inputs, 4 * width, 1, stride) if first else None

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        return (self.expansion_block(self.conv_block(self.reduction_block(x))) + shortcut).relu()


class ResNet(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.conv1 = pair(3, 64, 7, 2, nn.ReLU())
        inputs = 64
        for stage, depth in enumerate(R50):
            width, blocks = WIDTH * 2**stage, []
            for index in range(depth):
                blocks.append(Block(kind, inputs, width, 2 if stage and not index else 1, not index))
                inputs = 4 * width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, 5)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.conv1(x), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class EffLayer(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(3 * dim, dim)

    def forward(self, x):
        side = round(x.shape[1] ** 0.5)
        x = nn.functional.gelu(self.qkv(x)).transpose(1, 2).unflatten(2, (side, side))
        x = nn.functional.max_pool2d(x, 3, 1, 1)
        return self.proj(nn.functional.gelu(x.flatten(2).transpose(1, 2)))


class TokenBlock(nn.Module):
    def __init__(self, dim, heads, pools):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = EffLayer(dim) if pools else Attention(dim, heads, qkv_bias=True)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self):
        super().__init__()
        dim = DIM * HEADS[0]
        self.patch_embed = PatchEmbed(224, 16, 3, dim)
        self.pos_embed = nn.Parameter(torch.randn(1, 196, dim))
        self.blocks = nn.ModuleList(TokenBlock(dim, HEADS[0], index % 2) for index in range(4))
        self.norm, self.head = nn.LayerNorm(dim, eps=1e-6), nn.Linear(dim, 5)

    def forward(self, x):
        x = self.patch_embed(x) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


class PiT(nn.Module):
    def __init__(self):
        super().__init__()
        dims = [DIM * heads for heads in HEADS]
        self.pos_embed = nn.Parameter(torch.randn(1, dims[0], 27, 27))
        self.patch_embed = nn.ModuleDict({"conv": nn.Conv2d(3, dims[0], 16, 8)})
        stages = []
        for dim, heads in zip(dims, HEADS, strict=True):
            blocks = nn.ModuleList(TokenBlock(dim, heads, index % 2) for index in range(2))
            stages.append(nn.ModuleDict({"blocks": blocks}))
        self.transformers = nn.ModuleList(stages)
        self.pools = nn.ModuleList([nn.ModuleDict({"conv": nn.Conv2d(dims[0], dims[1], 3, 2, 1, groups=dims[0])})])
        self.norm, self.head = nn.LayerNorm(dims[-1], eps=1e-6), nn.Linear(dims[-1], 5)

    def forward(self, x):
        x = self.patch_embed["conv"](x) + self.pos_embed
        for index, stage in enumerate(self.transformers):
            x = self.pools[index - 1]["conv"](x) if index else x
            tokens, side = x.flatten(2).transpose(1, 2), x.shape[2:]
            for block in stage["blocks"]:
                tokens = block(tokens)
            x = tokens.transpose(1, 2).unflatten(2, side)
        return self.head(self.norm(x.flatten(2).transpose(1, 2)).mean(1))


def resnet_card(pattern):
    options = {"depths": R50, "pattern": pattern, "channels": [WIDTH * 2**stage for stage in range(4)]}
    return "resnet", options


VIT = ("transformer", {"kind": "pooling_vit", "embed_dim": DIM * HEADS[0], "depth": 4, "num_heads": HEADS[0]})
PIT = ("transformer", {"kind": "pooling_pit", "base_dims": (DIM, DIM), "depth": (2, 2), "heads": HEADS})
PUBLISHED = {
    "small_max": (lambda: ResNet("max"), resnet_card("max")),
    "small_hybrid": (lambda: ResNet("hybrid"), resnet_card("hybrid")),
    "small_plain": (lambda: ResNet("plain"), resnet_card("BBBB")),
    "small_vit": (ViT, VIT),
    "small_pit": (PiT, PIT),
}


@pytest.fixture(autouse=True)
def small_backbones(monkeypatch):
    """Narrow ones in the place of the real ones, which have the same names of weights."""
    for name in set(CARDS):
        monkeypatch.delitem(CARDS, name)
    for name, (_, (builder, options)) in PUBLISHED.items():
        monkeypatch.setitem(CARDS, name, BackboneCard(name, 0, 0, None, None, "test", builder, options))


@pytest.mark.parametrize("name", PUBLISHED)
def test_outputs_are_equal(tmp_path, capsys, name):
    torch.manual_seed(0)
    theirs = PUBLISHED[name][0]()
    with torch.no_grad():
        for value in theirs.state_dict().values():
            if value.dim() == 1:
                value.uniform_(0.5, 1.5)  # of norms, whose swap would pass unseen otherwise
    entries = theirs.state_dict()
    torch.save({"state_dict": entries} if name == "small_hybrid" else entries, tmp_path / "published.pth")
    assert main(["convert", str(tmp_path / "published.pth"), str(tmp_path / "ours.pth"), "--to", "timm"]) == 0
    text = capsys.readouterr().out
    assert f"model {name}: recognised" in text
    assert "0 left over, 0 missing, 0 shape" in text
    ours = create_backbone(name, 5)
    ours.load_state_dict(torch.load(tmp_path / "ours.pth", weights_only=True)["state_dict"])
    images = torch.randn(1, 3, 224, 224, dtype=torch.double)
    with torch.no_grad():
        difference = ours.double().eval()(images) - theirs.double().eval()(images)
    # Transformers multiply matrices of another memory layout, which rounds otherwise.
    assert difference.abs().max() <= (1e-12 if hasattr(theirs, "patch_embed") else 0)


def test_a_deep_stem_is_not_taken_for_one():
    names = ["conv1.0.weight", "conv1.1.weight", "conv1.6.weight", "bn1.weight", "layer1.0.conv1.weight"]
    assert pflayer_renaming(names) is None
    rename = pflayer_renaming(["layer2.0.reduction_block.0.weight"])
    assert rename("layer2.0.conv_block.1.0.weight") == "layer2.0.conv2.conv.weight"
    assert rename("layer2.0.conv_block.1.1.running_var") == "layer2.0.bn2.running_var"
    assert rename("layer2.0.conv_block.1.running_var") == "layer2.0.bn2.running_var"
    assert rename("layer2.0.downsample.0.weight") == "layer2.0.downsample.0.weight"
