"""Attention whose projections are linear layers that can be called, so that conversion reaches them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ndpp_dense.conversion.module_surgery import carry_hooks, replace_modules
from ndpp_dense.conversion.rules import RuleBook

__all__ = ["SplitAttention", "attention_names", "attention_split", "unsplittable"]

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


class SplitAttention(nn.Module):
    """``nn.MultiheadAttention`` with a linear layer for each of query, key, value and output.

    PyTorch's module keeps the three input projections in one parameter and calls none of its layers. Here all four are
    called, with the same results, and may be ND++ layers: the inputs of query, key and value, which differ in cross
    attention, are whitened by their own statistics. State dicts of ``nn.MultiheadAttention`` load.

    Args:
        attention: What it stands for. Its parameters are copied but the output projection's, which are kept.

    Raises:
        ValueError: See :func:`unsplittable`.
    """

    # What PyTorch's transformer layers look at before they take a fused kernel, which would read weights.
    in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        fault = unsplittable(attention)
        if fault:
            raise ValueError(f"This attention cannot be split: {fault}.")
        self.embed_dim, self.num_heads, self.head_dim = attention.embed_dim, attention.num_heads, attention.head_dim
        self.dropout, self.batch_first = attention.dropout, attention.batch_first
        if attention.in_proj_weight is None:
            weights = [attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight]
        else:
            weights = list(attention.in_proj_weight.chunk(3))
        biases = [None] * 3 if attention.in_proj_bias is None else list(attention.in_proj_bias.chunk(3))
        for name, weight, bias in zip(_PROJECTIONS, weights, biases, strict=True):
            setattr(self, name, _linear(weight.detach().clone(), None if bias is None else bias.detach().clone()))
            for own in getattr(self, name).parameters():
                own.requires_grad_(weight.requires_grad)
        self.out_proj = _linear(attention.out_proj.weight, attention.out_proj.bias)
        self.training = attention.training
        self.register_load_state_dict_pre_hook(_split_entries)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As for ``nn.MultiheadAttention``: shapes, masks and results are the same."""
        if is_causal and attn_mask is None:
            raise ValueError("is_causal is a hint about attn_mask, which is None: give attn_mask too.")
        batched = query.dim() == 3
        inputs = [x if batched else x.unsqueeze(0) for x in (query, key, value)]
        if batched and not self.batch_first:
            inputs = [x.transpose(0, 1) for x in inputs]
        q, k, v = (self._heads(getattr(self, name)(x)) for name, x in zip(_PROJECTIONS, inputs, strict=True))
        mask = self._mask(q, key_padding_mask, attn_mask)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
            weights = functional.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
            out = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        else:
            out = functional.scaled_dot_product_attention(q, k, v, mask, dropout)
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        if not batched:
            return out.squeeze(0), weights
        return out if self.batch_first else out.transpose(0, 1), weights

    def _heads(self, x: Tensor) -> Tensor:
        """Maps ``(N, L, E)`` to ``(N, heads, L, E / heads)``."""
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _mask(self, q: Tensor, padding: Tensor | None, attention: Tensor | None) -> Tensor | None:
        """What is added to the scores, ``(N or 1, heads or 1, L or 1, S)``, or None."""
        parts = []
        if attention is not None:
            parts.append(attention.unflatten(0, (-1, self.num_heads)) if attention.dim() == 3 else attention)
        if padding is not None:
            parts.append(padding.reshape(-1, 1, 1, padding.shape[-1]))
        added = [_added(part, q.dtype) for part in parts]
        return sum(added[1:], start=added[0]) if added else None


@contextmanager
def attention_split(model: nn.Module, book: RuleBook) -> Iterator[None]:
    """Puts :class:`SplitAttention` where the rules want it; takes it out again if the block raises.

    Inside the block PyTorch's transformers take no fused kernel, which would read weights or make nested tensors.

    Args:
        model: Changed in place.
        book: The rules.
    """
    chosen = {
        m: name for name, m in model.named_modules() if isinstance(m, nn.MultiheadAttention) and book.splits(name)
    }
    split: dict[nn.Module, nn.Module] = {old: SplitAttention(old) for old in chosen if not unsplittable(old)}
    for old, new in split.items():
        carry_hooks(old, new)
    replace_modules(model, split)
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    except BaseException:
        replace_modules(model, {new: old for old, new in split.items()})
        raise
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def attention_names(model: nn.Module) -> set[str]:
    """Names of all attention below a model that rules can speak of, split or not."""
    found = model.named_modules(remove_duplicate=False)
    return {name for name, module in found if isinstance(module, nn.MultiheadAttention | SplitAttention)}


def unsplittable(attention: nn.MultiheadAttention) -> str | None:
    """Why the projections of an attention cannot become layers of their own, or None."""
    if type(attention).forward is not nn.MultiheadAttention.forward:
        return f"{type(attention).__qualname__} has a forward of its own"
    if attention.bias_k is not None or attention.add_zero_attn:
        return "it adds rows to keys and values (add_bias_kv, add_zero_attn)"
    if hasattr(attention, "parametrizations"):
        return "parametrised weight"
    return None


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight)
    if bias is not None:
        layer.bias = bias if isinstance(bias, nn.Parameter) else nn.Parameter(bias)
    return layer


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask of the positions to leave out (True) as what is added to the scores."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))


def _split_entries(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Gives the entries of ``nn.MultiheadAttention`` the names of the layers that stand in their place."""
    for kind in ("weight", "bias"):
        whole = state.pop(f"{prefix}in_proj_{kind}", None)
        parts = [None] * 3 if whole is None else whole.chunk(3)
        for name, part in zip(_PROJECTIONS, parts, strict=True):
            part = state.pop(f"{prefix}{name}_{kind}", None) if part is None else part
            if part is not None:
                state[f"{prefix}{name}.{kind}"] = part
