"""Drop-in for MultiheadAttention."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tqs_fast.errors import ArgumentError
from tqs_fast.rewriting.linear import QuantLinear
from tqs_fast.rewriting.packed import PackedTensor, QuantModule


class QuantMultiheadAttention(QuantModule):
    """`nn.MultiheadAttention`, each projection packed or float: same call, shapes, masks and weights.

    `_qkv_same_embed_dim` is False whatever the sizes: it tells `nn.TransformerEncoderLayer` not to take its fused path,
    which would read whole float weights.

    Args:
        module: the float attention.
        packed: attribute -> packed weight; "out_proj.weight" belongs to the child `out_proj`.
    """

    CONFIG = ("embed_dim", "kdim", "vdim", "num_heads", "dropout", "batch_first", "head_dim", "add_zero_attn")
    out_proj: nn.Module
    in_proj_bias: Tensor | None

    def __init__(self, module: nn.MultiheadAttention, packed: Mapping[str, PackedTensor]) -> None:
        own = {name: tensor for name, tensor in packed.items() if name != "out_proj.weight"}
        super().__init__(module, own)
        self._joint = module._qkv_same_embed_dim
        self._qkv_same_embed_dim = False
        self.out_proj = module.out_proj
        if "out_proj.weight" in packed:
            self.out_proj = QuantLinear(module.out_proj, {"weight": packed["out_proj.weight"]})

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
        """As `nn.MultiheadAttention.forward`.

        query [L, B, E], key [S, B, kdim], value [S, B, vdim], or batch first, or without a batch dimension.
        """
        if is_causal and attn_mask is None:
            raise ArgumentError("[QuantMultiheadAttention] is_causal is a hint about attn_mask; pass the mask too")
        batched = query.dim() == 3
        if query.dim() not in (2, 3) or key.dim() != query.dim() or value.dim() != query.dim():
            raise ArgumentError(
                "[QuantMultiheadAttention] expected query, key and value all of 2 or all of 3 dimensions, "
                f"got {list(query.shape)}, {list(key.shape)}, {list(value.shape)}"
            )
        q, k, v = (self._heads(part, batched) for part in self._project_inputs(query, key, value))  # [B, H, L|S, head]
        length, sources = q.shape[2], k.shape[2]
        use_causal = is_causal and key_padding_mask is None and not need_weights
        mask = None if use_causal else self._mask(attn_mask, key_padding_mask, q, sources, batched)
        k, v, mask = self._extend(k, v, mask)
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            scores = (q * math.sqrt(1.0 / self.head_dim)) @ k.transpose(-2, -1)
            weights = F.dropout(torch.softmax(scores if mask is None else scores + mask, -1), dropout)
            mixed = weights @ v
        else:
            weights = None
            mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout, use_causal)
        batch_first = self.batch_first or not batched
        mixed = mixed.transpose(1, 2) if batch_first else mixed.permute(2, 0, 1, 3)
        output: Tensor = self.out_proj(mixed.flatten(2) if batched else mixed.reshape(length, self.embed_dim))
        if weights is not None:
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        return output, weights

    def _project_inputs(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        e, bias = self.embed_dim, self.in_proj_bias
        if not self._joint:
            parts = zip("qkv", (query, key, value), range(3), strict=True)
            return tuple(
                self.project(x, f"{name}_proj_weight", None if bias is None else bias[i * e : (i + 1) * e])
                for name, x, i in parts
            )
        if query is key and key is value:
            return self.project(query, "in_proj_weight", bias).chunk(3, -1)

        def rows(x: Tensor, first: int, last: int) -> Tensor:
            chosen = slice(first * e, last * e)
            return self.project(x, "in_proj_weight", None if bias is None else bias[chosen], chosen)

        if key is value:
            return rows(query, 0, 1), *rows(key, 1, 3).chunk(2, -1)
        return rows(query, 0, 1), rows(key, 1, 2), rows(value, 2, 3)

    def _heads(self, x: Tensor, batched: bool) -> Tensor:
        """[L, B, E], [B, L, E] or [L, E] -> [B, H, L, head]."""
        split = x.reshape(*x.shape[:-1], self.num_heads, self.head_dim)
        if not batched:
            return split.transpose(0, 1).unsqueeze(0)
        return split.transpose(1, 2) if self.batch_first else split.permute(1, 2, 0, 3)

    def _mask(
        self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor, sources: int, batched: bool
    ) -> Tensor | None:
        """Both masks as one additive mask that broadcasts to [B, H, L, S], or None."""
        batch, heads, length = q.shape[:3]
        mask = None
        if attn_mask is not None:
            if tuple(attn_mask.shape) not in ((length, sources), (batch * heads, length, sources)):
                raise ArgumentError(
                    f"[QuantMultiheadAttention] expected attn_mask of shape [{length}, {sources}] or "
                    f"[{batch * heads}, {length}, {sources}], got {list(attn_mask.shape)}"
                )
            mask = _additive(attn_mask, q.dtype)
            mask = mask if attn_mask.dim() == 2 else mask.reshape(batch, heads, length, sources)
        if key_padding_mask is not None:
            wanted = (batch, sources) if batched else (sources,)
            if tuple(key_padding_mask.shape) != wanted:
                raise ArgumentError(
                    f"[QuantMultiheadAttention] expected key_padding_mask of shape {list(wanted)}, "
                    f"got {list(key_padding_mask.shape)}"
                )
            padding = _additive(key_padding_mask, q.dtype).reshape(batch, 1, 1, sources)
            mask = padding if mask is None else mask + padding
        return mask

    def _extend(self, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Appends the learned and the zero key, each visible to every query."""
        extra: list[tuple[Tensor, Tensor]] = []
        batch, heads = k.shape[:2]
        bias_k, bias_v = self._parameters.get("bias_k"), self._parameters.get("bias_v")
        if bias_k is not None and bias_v is not None:
            shape = (1, heads, 1, self.head_dim)
            extra.append((bias_k.reshape(shape), bias_v.reshape(shape)))
        if self.add_zero_attn:
            zero = k.new_zeros(1, 1, 1, self.head_dim)
            extra.append((zero, zero))
        for more_k, more_v in extra:
            k = torch.cat([k, more_k.expand(batch, heads, 1, -1)], 2)
            v = torch.cat([v, more_v.expand(batch, heads, 1, -1)], 2)
            mask = None if mask is None else F.pad(mask, (0, 1))
        return k, v, mask

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, num_heads={self.num_heads}, batch_first={self.batch_first}"


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, -math.inf)
    if not mask.dtype.is_floating_point:
        raise ArgumentError(f"[QuantMultiheadAttention] expected a bool or float mask, got {mask.dtype}")
    return mask.to(dtype)
