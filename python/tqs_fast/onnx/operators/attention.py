"""Attention as one operator, without a cache of keys and values."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tqs_fast.onnx.operators.registry import Call, Value, operator


@operator("Attention", domain="com.microsoft")
def attention(
    call: Call, x: Value, weight: Value, bias: Value | None = None, mask: Value | None = None, *rest: Value | None
) -> torch.Tensor:
    """x `[N, S, D]`, weight `[D, 3 * hidden]`: queries, keys and values of all heads."""
    call.supports_only(do_rotary=0)
    if mask is not None or any(value is not None for value in rest) or call.outputs > 1:
        raise call.refused("a mask, a bias of the scores or a cache is not supported")
    projected = torch.matmul(call.tensor(x), call.tensor(weight))
    projected = projected if bias is None else projected + call.tensor(bias)
    sizes = call.get("qkv_hidden_sizes") or [projected.shape[-1] // 3] * 3
    q, k, v = (_apart(part, call.get("num_heads")) for part in torch.split(projected, sizes, dim=-1))
    return _together(_attend(call, q, k, v, causal=bool(call.get("unidirectional", 0))))


@operator("MultiHeadAttention", domain="com.microsoft")
def multi_head(call: Call, query: Value, key: Value, value: Value, *rest: Value | None) -> torch.Tensor:
    """Each `[N, S, hidden]`; a bias of all three may follow."""
    bias, others = (*rest, None)[0], rest[1:]
    if any(part is not None for part in others) or call.outputs > 1:
        raise call.refused("a mask, a bias of the scores or a cache is not supported")
    parts = [call.tensor(part) for part in (query, key, value)]
    if any(part.dim() != 3 for part in parts):
        raise call.refused("packed queries, keys and values are not supported")
    if bias is not None:
        added = torch.split(call.tensor(bias), [part.shape[-1] for part in parts])
        parts = [part + own for part, own in zip(parts, added, strict=True)]
    q, k, v = (_apart(part, call.get("num_heads")) for part in parts)
    return _together(_attend(call, q, k, v, causal=bool(call.get("unidirectional", 0))))


@operator("Attention")
def standard_attention(
    call: Call, query: Value, key: Value, value: Value, mask: Value | None = None, *rest: Value | None
) -> torch.Tensor:
    """Each `[N, heads, S, D]`, or `[N, S, heads * D]` with the number of heads as attributes."""
    call.supports_only(softcap=0.0, qk_matmul_output_mode=0)
    if any(part is not None for part in rest) or call.outputs > 1:
        raise call.refused("a cache of keys and values is not supported")
    parts = [call.tensor(part) for part in (query, key, value)]
    flat = parts[0].dim() == 3
    if flat:
        heads = [call.get("q_num_heads"), call.get("kv_num_heads"), call.get("kv_num_heads")]
        parts = [_apart(part, count) for part, count in zip(parts, heads, strict=True)]
    bias = None if mask is None else call.tensor(mask)
    y = _attend(call, *parts, causal=bool(call.get("is_causal", 0)), mask=bias)
    return _together(y) if flat else y


def _apart(x: torch.Tensor, heads: int) -> torch.Tensor:
    """`[N, S, heads * D]` -> `[N, heads, S, D]`."""
    return x.reshape(*x.shape[:-1], heads, -1).transpose(1, 2)


def _together(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(1, 2).flatten(2)


def _attend(
    call: Call, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, mask: torch.Tensor | None = None
) -> torch.Tensor:
    shared = k.shape[1] != q.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, scale=call.get("scale") or None, enable_gqa=shared
    )
