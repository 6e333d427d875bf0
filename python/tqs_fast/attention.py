"""Scaled dot-product attention with forward-mode derivatives, as a PyTorch operator: `tqs.ops.attention`.

The derivative of tqs_fast::attention in forward mode is tqs_fast::attention_tangents (_attention_kernel.py): any number
of tangents in one pass over the keys. Reverse mode, and derivatives of the second operator, recompute the weights
[..., S, T] with plain torch operations, which can be differentiated again in any mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from tqs_fast._attention_kernel import (
    ATTENTION,
    HALF,
    TANGENTS,
    Optional,
    Settings,
    check_arguments,
    has_tensor_cores_for,
)
from tqs_fast.errors import ArgumentError, TqsError


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    scale: float | None = None,
    causal_offset: int = 0,
) -> Tensor:
    """softmax(scale q k^T + mask) v, as `torch.nn.functional.scaled_dot_product_attention`, with all derivatives.

    `torch.func.jvp`, `vmap`, `jacfwd`, `jacrev`, `grad`, `hessian` and their nestings, `torch.autograd` in both modes,
    `torch.compile` and `torch.export` work through it. `vmap` over tangents of the same q, k, v is one pass over the
    keys for all of them. Reverse mode and derivatives beyond the first recompute the weights with torch operations and
    keep [..., S, T] in memory. A function that calls a torch.func derivative of this one cannot be compiled (it
    raises); the derivative of a compiled function can be taken. Results do not depend on the number of threads.

    Args:
        q: [..., S, D] on the CPU or a CUDA device, any strides; float32 or float64. float16 and bfloat16 are computed
            in float32 and cast back, except on CUDA where D and E are multiples of 8 up to 128: there on tensor cores,
            scores and sums in float32, weights and their tangents rounded before they are multiplied by v.
        k: [..., T, D]. Leading sizes of q, k, v and mask broadcast (heads that share keys: q [B, H, G, S, D],
            k [B, H, 1, T, D]) and what is broadcast is not copied.
        v: [..., T, E].
        causal: query s sees keys t <= s + causal_offset only.
        mask: added to the scores, of the dtype of q and broadcasting to [..., S, T], -inf hides a key; or boolean,
            True where a query sees a key. May be differentiated. A query that sees no key gives 0.
        scale: 1 / sqrt(D) where None.
        causal_offset: T - S for queries that continue a sequence whose keys come first; 0 aligns the first query with
            the first key, as torch's `is_causal` does.

    Returns:
        [..., S, E], contiguous, of the dtype of q.

    Raises:
        ArgumentError: shapes, dtypes or devices that do not fit.
        TqsError: a torch.func derivative inside `torch.compile`; torch shows it inside an error of its own. CUDA
            tensors in a build without CUDA.

    Source: Milakov and Gimelshein, "Online normalizer calculation for softmax", arXiv:1805.02867; Dao et al.,
    "FlashAttention", arXiv:2205.14135. The tangent is dp = p (ds - sum p ds), carried through the same recurrence.
    """
    check_arguments(q, k, v, mask)
    dtype = q.dtype
    if dtype in HALF and not has_tensor_cores_for(q, v):
        q, k, v = q.float(), k.float(), v.float()
        mask = mask if mask is None or mask.dtype == torch.bool else mask.float()
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -math.inf)
    leading = _leading(q, k, v, mask)
    q, k, v = (part.expand(*leading, *part.shape[-2:]) for part in (q, k, v))
    if mask is not None:
        mask = mask.expand(*leading, q.shape[-2], k.shape[-2])
    settings = (1.0 / math.sqrt(q.shape[-1]) if scale is None else float(scale), causal, causal_offset)
    # Under torch.compile the operator itself, which graphs keep whole; dynamo does not trace a Function with a jvp.
    compiling = torch.compiler.is_compiling()
    out: Tensor = ATTENTION(q, k, v, mask, *settings) if compiling else _apply_attention(q, k, v, mask, *settings)
    return out if out.dtype == dtype else out.to(dtype)


def _leading(q: Tensor, k: Tensor, v: Tensor, mask: Optional) -> tuple[int, ...]:
    shapes = [part.shape[:-2] for part in (q, k, v)]
    scores = (q.shape[-2], k.shape[-2])
    try:
        if mask is not None:
            if any(size not in (1, full) for size, full in zip(mask.shape[::-1], scores[::-1], strict=False)):
                raise RuntimeError
            shapes.append(mask.shape[:-2])
        return tuple(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]
    except RuntimeError:
        got = ", ".join(str(list(part.shape)) for part in (q, k, v, mask) if part is not None)
        raise ArgumentError(
            "[attention] expected leading sizes of q, k, v and mask that broadcast, and a mask that broadcasts to "
            f"[..., S, T], got {got}"
        ) from None


def _weights(q: Tensor, k: Tensor, mask: Optional, settings: Settings) -> Tensor:
    """p [..., S, T]; rows without a visible key are 0."""
    scale, causal, causal_offset = settings
    scores = scale * q @ k.mT
    if mask is not None:
        scores = scores + mask
    if causal:
        visible = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril(causal_offset)
        scores = scores.masked_fill(~visible, -math.inf)
    if scores.shape[-1] == 0:
        return scores
    # Any shift gives the same weights, so none of it is differentiated.
    shift = scores.detach().amax(-1, keepdim=True)
    weights = (scores - shift.masked_fill(shift == -math.inf, 0.0)).exp()
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total == 0, torch.ones_like(total), total)


def _widened(tensors: Sequence[Any]) -> list[Any]:
    """Those of 16 bits in float32: what is recomputed in torch operations is to be no worse than the operators."""
    return [tensor.float() if tensor is not None and tensor.dtype in HALF else tensor for tensor in tensors]


def _tangents_by_weights(tensors: Sequence[Any], settings: Settings) -> Tensor:
    """As tqs_fast::attention_tangents, whose first eight arguments are `tensors`: p dv + (p ds) v - sum(p ds) out."""
    dtype = tensors[0].dtype
    q, k, v, mask, dq, dk, dv, dmask = _widened(tensors)
    weights, scale = _weights(q, k, mask, settings), settings[0]
    slopes = [scale * dq @ k.mT] if dq is not None else []
    slopes += [scale * q @ dk.mT] if dk is not None else []
    slopes += [dmask] if dmask is not None else []
    parts = [weights @ dv] if dv is not None else []
    if slopes:
        moved = weights * sum(slopes[1:], slopes[0])
        parts.append(moved @ v - moved.sum(-1, keepdim=True) * (weights @ v))
    result: Tensor = sum(parts[1:], parts[0])
    return result.to(dtype)


def _composition(
    ctx: Any, tensors: Sequence[Optional]
) -> tuple[Callable[[dict[int, Tensor]], Tensor], dict[int, Tensor]]:
    """_tangents_by_weights of those of its eight tensors that are given, and they, by place."""
    given = {place: tensor for place, tensor in enumerate(tensors) if tensor is not None}

    def compose(parts: dict[int, Tensor]) -> Tensor:
        return _tangents_by_weights([parts.get(place) for place in range(8)], ctx.settings)

    return compose, given


def _enclosing_levels() -> AbstractContextManager[None]:
    """Torch calls `jvp` with forward mode off, which is meant for this level but holds for the enclosing ones too:
    their tangents would be lost where `jvp` calls anything but a Function (seen in third derivatives)."""
    return forward_ad._set_fwd_grad_enabled(True)


def _primals(tensors: Sequence[Optional]) -> list[Optional]:
    """Without their tangents of this level, which forward mode switched on again would carry along."""
    return [None if tensor is None else forward_ad.unpack_dual(tensor).primal for tensor in tensors]  # type: ignore[no-untyped-call]


def _fold(info: Any, in_dims: Sequence[int | None], parts: Sequence[Optional], to: int) -> list[Optional]:
    """Each part with the mapped dimension at `to`, expanded where it is not mapped."""
    folded: list[Optional] = []
    for part, dim in zip(parts, in_dims, strict=True):
        if part is None:
            folded.append(None)
        elif dim is None:
            part = part.unsqueeze(to)
            folded.append(part.expand(*part.shape[:to], info.batch_size, *part.shape[to + 1 :]))
        else:
            folded.append(part.movedim(dim, to))
    return folded


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, mask: Optional, scale: float, causal: bool, causal_offset: int) -> Any:
        return ATTENTION(q, k, v, mask, scale, causal, causal_offset)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.save_for_forward(*inputs[:4])
        ctx.settings = inputs[4:]
        ctx.set_materialize_grads(False)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        with _enclosing_levels():
            lanes = [None if tangent is None else tangent.unsqueeze(0) for tangent in tangents[:4]]
            return _apply_tangents(*_primals(ctx.saved_tensors), *lanes, *ctx.settings).squeeze(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        if gradients[0] is None:
            return (None,) * 7
        q, k, v, mask, dout = _widened((*ctx.saved_tensors, gradients[0]))
        dtype, scale = gradients[0].dtype, ctx.settings[0]
        weights = _weights(q, k, mask, ctx.settings)
        dweights = dout @ v.mT
        dscores = weights * (dweights - (weights * dweights).sum(-1, keepdim=True))
        dmask = None if mask is None else dscores.to(dtype)
        products = (scale * dscores @ k, scale * dscores.mT @ q, weights.mT @ dout)
        return *(gradient.to(dtype) for gradient in products), dmask, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        return _apply_attention(*_fold(info, in_dims[:4], arguments[:4], 0), *arguments[4:]), 0


class _Tangents(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> Any:
        return TANGENTS(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:8])
        ctx.save_for_forward(*inputs[:8])
        ctx.settings = inputs[8:]
        ctx.set_materialize_grads(False)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        with _enclosing_levels():
            compose, given = _composition(ctx, _primals(ctx.saved_tensors))
            moved = {
                place: torch.zeros_like(part) if tangents[place] is None else tangents[place]
                for place, part in given.items()
            }
            return torch.func.jvp(compose, (given,), (moved,))[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        result: list[Optional] = [None] * 11
        if gradients[0] is not None:
            compose, given = _composition(ctx, ctx.saved_tensors)
            (pulled,) = torch.func.vjp(compose, given)[1](gradients[0])
            for place, gradient in pulled.items():
                result[place] = gradient
        return tuple(result)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        primal, tangents, settings = arguments[:4], arguments[4:8], arguments[8:]
        if all(dim is None for dim in in_dims[:4]):  # more tangents of the same primal: more lanes of one call
            lanes = [None if part is None else part.flatten(0, 1) for part in _fold(info, in_dims[4:8], tangents, 0)]
            return _apply_tangents(*primal, *lanes, *settings).unflatten(0, (info.batch_size, -1)), 0
        parts = _fold(info, in_dims[:4], primal, 0) + _fold(info, in_dims[4:8], tangents, 1)
        return _apply_tangents(*parts, *settings), 1


_apply_attention: Any = _Attention.apply
_apply_tangents: Any = _Tangents.apply


def _autograd_kernel(operator: Any, function: Any) -> Callable[..., Any]:
    def kernel(keyset: Any, *arguments: Any) -> Any:
        if torch._C._are_functorch_transforms_active():
            raise TqsError(
                "[attention] torch.func derivatives go through tqs.ops.attention called outside torch.compile, not "
                "through torch.ops.tqs_fast.attention or what torch.compile traces; compile the function inside instead"
            )
        if torch.is_grad_enabled() or torch._C._is_fwd_grad_enabled():
            return function.apply(*arguments)
        return operator.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)  # from function.forward

    return kernel


def _attention_vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
    return ATTENTION(*_fold(info, in_dims[:4], arguments[:4], 0), *arguments[4:]), 0


# A kernel of our own for Autograd: what torch.library.register_autograd makes drops forward-mode tangents silently.
_LIBRARY: Any = torch.library.Library("tqs_fast", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.impl("attention", _autograd_kernel(ATTENTION, _Attention), "Autograd", with_keyset=True)
_LIBRARY.impl("attention_tangents", _autograd_kernel(TANGENTS, _Tangents), "Autograd", with_keyset=True)
torch.library.register_vmap("tqs_fast::attention", _attention_vmap)
