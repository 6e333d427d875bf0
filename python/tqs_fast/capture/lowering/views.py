"""Ops that move nothing: axes in another order, parts, broadcasts, other shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tqs_fast.capture.graph import Tensor
from tqs_fast.capture.lowering.elementwise import convert_between
from tqs_fast.capture.lowering.registry import Context, lowers


@lowers(
    "aten.alias.default",
    "aten.clone.default",
    "aten.contiguous.default",
    "aten.detach.default",
    "aten.detach_.default",
    "aten.lift_fresh.default",
    "aten.lift_fresh_copy.default",
    "aten.positive.default",
)
def identity(context: Context, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


@lowers("aten.copy.default")
def copy(context: Context, into: Tensor, x: Tensor, non_blocking: bool = False) -> Tensor:
    x = convert_between(context, x, context.dtype(1), context.dtype(0))
    return context.graph.expand(x, context.sizes)


@lowers("aten.permute.default")
def permute(context: Context, x: Tensor, order: Sequence[int]) -> Tensor:
    return context.graph.permute(x, order)


@lowers("aten.t.default")
def t(context: Context, x: Tensor) -> Tensor:
    return context.graph.permute(x, range(x.rank)[::-1])


@lowers("aten.transpose.int")
def transpose(context: Context, x: Tensor, axis1: int, axis2: int) -> Tensor:
    order = list(range(x.rank))
    order[axis1], order[axis2] = order[axis2], order[axis1]
    return context.graph.permute(x, order)


@lowers(
    "aten.view.default",
    "aten._unsafe_view.default",
    "aten.reshape.default",
    "aten.unsqueeze.default",
    "aten.squeeze.default",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
    "aten.flatten.using_ints",
    "aten.unflatten.int",
)
def reshape(context: Context, x: Tensor, *_: Any) -> Tensor:
    return context.graph.reshape(x, context.sizes)


@lowers("aten.expand.default")
def expand(context: Context, x: Tensor, sizes: Sequence[int], implicit: bool = False) -> Tensor:
    return context.graph.expand(x, context.sizes)


@lowers("aten.slice.Tensor")
def slice(
    context: Context, x: Tensor, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    size = x.sizes[axis]
    first = 0 if start is None else min(max(start + size if start < 0 else start, 0), size)
    return context.graph.slice(x, axis, first, context.sizes[axis], step)


@lowers("aten.select.int")
def select(context: Context, x: Tensor, axis: int, position: int) -> Tensor:
    return context.graph.select(x, axis, position)


@lowers("aten.narrow.default")
def narrow(context: Context, x: Tensor, axis: int, start: int, length: int) -> Tensor:
    return context.graph.slice(x, axis, start % max(x.sizes[axis], 1), length)


@lowers("aten.split_with_sizes.default", "aten.split.Tensor", "aten.chunk.default", "aten.unsafe_split.Tensor")
def split(context: Context, x: Tensor, _: Any, axis: int = 0) -> tuple[Tensor, ...]:
    pieces, start = [], 0
    for piece in context.returned:
        length = int(piece.shape[axis])
        pieces.append(context.graph.slice(x, axis, start, length))
        start += length
    return tuple(pieces)


@lowers("aten.unbind.int")
def unbind(context: Context, x: Tensor, axis: int = 0) -> tuple[Tensor, ...]:
    return tuple(context.graph.select(x, axis, position) for position in range(x.sizes[axis]))


@lowers("aten.unfold.default")
def unfold(context: Context, x: Tensor, axis: int, size: int, step: int) -> Tensor:
    return context.graph.windows(x, axis, size, step)


@lowers("aten.diagonal.default")
def diagonal(context: Context, x: Tensor, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    return context.graph.diagonal(x, offset, axis1, axis2)


@lowers("aten.repeat.default", "aten.tile.default")
def repeat(context: Context, x: Tensor, repeats: Sequence[int]) -> Tensor:
    """[3] repeated twice is [2, 3] seen as [6]."""
    graph = context.graph
    repeats = (1,) * (x.rank - len(repeats)) + tuple(repeats)
    x = graph.reshape(x, (1,) * (len(repeats) - x.rank) + x.sizes)
    apart = [size for have in x.sizes for size in (1, have)]
    together = [size for count, have in zip(repeats, x.sizes, strict=True) for size in (count, have)]
    return graph.reshape(graph.expand(graph.reshape(x, apart), together), context.sizes)
