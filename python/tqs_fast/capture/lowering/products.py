"""Products: with a constant they are "linear", else "matmul"; convolutions; attention."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch

from tqs_fast.capture.graph import Tensor, broadcast
from tqs_fast.capture.lowering.elementwise import result
from tqs_fast.capture.lowering.movement import flip, positions, rearrange
from tqs_fast.capture.lowering.registry import Context, lowers
from tqs_fast.capture.masks import causal_offset


@lowers("aten.linear.default")
def linear(context: Context, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., K], weight [N, K]; the bias is added apart where it is no constant."""
    if not weight.is_constant:
        order = (*range(weight.rank - 2), weight.rank - 1, weight.rank - 2)
        y = product(context, x, context.graph.permute(weight, order) if weight.rank > 1 else weight)
        return y if bias is None else result(context, "add", y, bias)
    graph = context.graph
    if weight.rank == 1:  # [K] -> no last axis
        y = linear(context, x, graph.reshape(weight, (1, *weight.sizes)))
        y = graph.reshape(y, y.sizes[:-1])
        return y if bias is None else result(context, "add", y, bias)
    own = bias if bias is not None and bias.is_constant and bias.sizes == weight.sizes[:1] else None
    rows = x if x.rank > 1 else graph.reshape(x, (1, *x.sizes))
    y = graph.add("linear", [rows, weight, own], (*rows.sizes[:-1], weight.sizes[0]))[0]
    y = graph.reshape(y, (*x.sizes[:-1], weight.sizes[0]))
    return y if bias is None or own is not None else result(context, "add", y, bias)


@lowers("aten.matmul.default", "aten.mm.default", "aten.bmm.default", "aten.mv.default", "aten.dot.default")
def product(context: Context, a: Tensor, b: Tensor) -> Tensor:
    """torch.matmul: vectors, broadcast leading axes."""
    graph = context.graph
    if a.rank == 1 and b.rank == 1:
        return graph.reshape(product(context, graph.reshape(a, (1, a.elements)), b), ())
    if a.rank == 1:
        y = product(context, graph.reshape(a, (1, a.elements)), b)
        return graph.reshape(y, (*y.sizes[:-2], y.sizes[-1]))
    if b.rank == 1:
        y = product(context, a, graph.reshape(b, (b.elements, 1)))
        return graph.reshape(y, y.sizes[:-1])
    if b.is_constant and prod(b.sizes[:-2]) == 1:
        matrix = graph.reshape(b, b.sizes[-2:])
        y = linear(context, a, graph.permute(matrix, (1, 0)))
        return graph.reshape(y, (*(1,) * (b.rank - a.rank), *y.sizes))
    if a.is_constant and prod(a.sizes[:-2]) == 1:
        # (A x)^T = x^T A^T
        y = linear(context, _transposed(context, b), graph.reshape(a, a.sizes[-2:]))
        y = _transposed(context, y)
        return graph.reshape(y, (*(1,) * (a.rank - b.rank), *y.sizes))
    leading = broadcast(a.sizes[:-2], b.sizes[:-2])
    a = graph.expand(a, (*leading, *a.sizes[-2:]))
    b = graph.expand(b, (*leading, *b.sizes[-2:]))
    return graph.add("matmul", [a, b], (*leading, a.sizes[-2], b.sizes[-1]))[0]


def _transposed(context: Context, x: Tensor) -> Tensor:
    return context.graph.permute(x, (*range(x.rank - 2), x.rank - 1, x.rank - 2))


@lowers("aten.addmm.default", "aten.baddbmm.default", "aten.addmv.default")
def addmm(context: Context, bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    if alpha == 1 and beta == 1 and b.rank == 2 and b.is_constant:
        y: Tensor = linear(context, a, context.graph.permute(b, (1, 0)), bias)
        return y
    y = product(context, a, b)
    y = y if alpha == 1 else result(context, "multiply", y, float(alpha))
    return result(context, "add", y, bias if beta == 1 else result(context, "multiply", bias, float(beta)))


@lowers("aten.convolution.default")
def convolution(
    context: Context,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    if not weight.is_constant:
        raise context.error("convolutions whose weight depends on the state are not supported")
    graph, spatial = context.graph, x.rank - 2
    if spatial > 2:
        raise context.error("convolutions over more than two axes are not supported")
    own = bias if bias is not None and bias.is_constant else None
    stride, padding, dilation = (
        tuple(given) * spatial if len(given) == 1 else tuple(given) for given in (stride, padding, dilation)
    )
    if transposed:
        x, weight = _spread_out(context, x, weight, stride, padding, dilation, groups)
        stride, padding = (1,) * spatial, (0,) * spatial
    pointwise = prod(weight.sizes[2:]) == 1 and set(stride) == {1} and set(padding) == {0} and groups == 1
    if pointwise:
        rows = graph.permute(x, (0, *range(2, x.rank), 1))
        y = linear(context, rows, graph.reshape(weight, weight.sizes[:2]), own)
        y = graph.permute(y, (0, x.rank - 1, *range(1, x.rank - 1)))
    else:
        y = graph.add(
            "convolution",
            [x, weight, own],
            context.sizes,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
        )[0]
    if bias is not None and own is None:
        y = result(context, "add", y, graph.reshape(bias, (bias.elements, *(1,) * spatial)))
    return y


def _spread_out(
    context: Context,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> tuple[Tensor, Tensor]:
    """What a transposed convolution convolves at stride 1: x with its elements as far apart as the strides, in margins
    of zeros that the taps of an output reach into, and the mirrored weight."""
    reach = [step * (taps - 1) for step, taps in zip(dilation, weight.sizes[2:], strict=True)]
    sizes = [size + far for size, far in zip(context.sizes[2:], reach, strict=True)]
    source = np.full((*x.sizes[:2], *sizes), -1, np.int64)
    read, written = [], []
    for n, size, step, far, cut in zip(x.sizes[2:], sizes, stride, reach, padding, strict=True):
        places = far - cut + step * np.arange(n)
        read.append(np.flatnonzero((places >= 0) & (places < size)))  # padding may cut more than margins
        written.append(places[read[-1]])
    leading = [np.arange(n) for n in x.sizes[:2]]
    source[np.ix_(*leading, *written)] = positions(x)[np.ix_(*leading, *read)]
    order = (0, 2, 1, *range(3, weight.rank + 1))
    by_group = context.graph.reshape(weight, (groups, weight.sizes[0] // groups, *weight.sizes[1:]))
    turned = context.graph.permute(by_group, order)  # [C, O / groups, taps...] -> [O, C / groups, taps...]
    turned = context.graph.reshape(turned, (groups * weight.sizes[1], weight.sizes[0] // groups, *weight.sizes[2:]))
    return rearrange(context, x, source), flip(context, turned, range(2, weight.rank))


@lowers("aten.scaled_dot_product_attention.default")
def attention(
    context: Context,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    graph = context.graph
    if dropout:
        raise context.error("attention with dropout draws random numbers")
    offset: int | None = None
    if mask is not None:
        if context.dtype(3) == torch.bool:
            mask = context.elementwise("where", mask, 0.0, -torch.inf, precision=q.precision)
        mask = context.convert(mask, q.precision)
        offset = None if is_causal else causal_offset(mask)
        if offset is not None:
            mask, is_causal = None, True
    sizes = (*context.sizes[:-2], q.sizes[-2], v.sizes[-1])
    shared = q.rank > 2 and k.rank > 2 and k.sizes[-3] not in (1, q.sizes[-3])
    if shared:  # grouped queries: H query heads over G of keys, head h reads h // (H / G)
        groups = k.sizes[-3]
        q = graph.reshape(q, (*q.sizes[:-3], groups, q.sizes[-3] // groups, *q.sizes[-2:]))
        k, v = (graph.reshape(x, (*x.sizes[:-2], 1, *x.sizes[-2:])) for x in (k, v))
        if mask is not None and mask.rank > 2:
            heads = mask.sizes[-3]
            apart = (1, 1) if heads == 1 else (groups, heads // groups)
            mask = graph.reshape(mask, (*mask.sizes[:-3], *apart, *mask.sizes[-2:]))
    leading = broadcast(q.sizes[:-2], k.sizes[:-2], v.sizes[:-2])
    q, k, v = (graph.expand(x, (*leading, *x.sizes[-2:])) for x in (q, k, v))
    if mask is not None:
        mask = graph.expand(mask, (*leading, q.sizes[-2], k.sizes[-2]))
    y = graph.add(
        "attention",
        [q, k, v, mask],
        (*leading, q.sizes[-2], v.sizes[-1]),
        causal=bool(is_causal),
        causal_offset=offset or 0,
        scale=float(q.sizes[-1] ** -0.5 if scale is None else scale),
    )[0]
    return graph.reshape(y, sizes)
