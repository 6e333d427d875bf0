"""Indexing: with constant positions it moves elements, with computed ones it is "gather"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tqs_fast.capture.expressions import Expression
from tqs_fast.capture.graph import Operand, Tensor
from tqs_fast.capture.lowering.elementwise import result
from tqs_fast.capture.lowering.movement import positions, rearrange, write
from tqs_fast.capture.lowering.registry import Context, lowers
from tqs_fast.capture.program import computed_in

MOST_STRETCHES = 3  # a copy each; more are one remap


@lowers("aten.index.Tensor", "aten._unsafe_index.Tensor")
def index(context: Context, x: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    """Computed positions become row-major ones over the indexed axes, then one gather."""
    given = [(axis, tensor) for axis, tensor in enumerate(indices) if tensor is not None]
    if any(_dtype_of(context, axis) == torch.bool for axis, _ in given):
        raise context.error("a selection by a mask has a size that depends on values; use torch.where")
    if all(tensor.is_constant for _, tensor in given):
        if len(given) == 1 and given[0][1].rank == 1:
            return rows(context, x, given[0][0], _numbers(given[0][1]))
        key = tuple(slice(None) if tensor is None else _numbers(tensor) for tensor in indices)
        return rearrange(context, x, positions(x)[key])
    graph = context.graph
    axes = [axis for axis, _ in given]
    if axes != list(range(axes[0], axes[0] + len(axes))):
        order = axes + [axis for axis in range(x.rank) if axis not in axes]
        x, axes = graph.permute(x, order), list(range(len(axes)))
    row = _row_major(context, x, axes, [tensor for _, tensor in given])
    before, after = x.sizes[: axes[0]], x.sizes[axes[-1] + 1 :]
    merged = graph.reshape(x, (*before, int(np.prod([x.sizes[a] for a in axes])), *after))
    flat = graph.reshape(row, (*(1,) * len(before), row.elements, *(1,) * len(after)))
    taken = take(context, merged, len(before), graph.expand(flat, (*before, row.elements, *after)))
    return graph.reshape(taken, (*before, *row.sizes, *after))


def _dtype_of(context: Context, axis: int) -> torch.dtype:
    dtype: torch.dtype = context.node.args[1][axis].meta["val"].dtype  # type: ignore[union-attr, index]
    return dtype


def _numbers(tensor: Tensor) -> npt.NDArray[Any]:
    assert isinstance(tensor.source, Expression)
    array: npt.NDArray[Any] = tensor.source.value.cpu().numpy()
    return array


def rows(context: Context, x: Tensor, axis: int, numbers: npt.NDArray[Any]) -> Tensor:
    """Constant rows along one axis: slices where they are a few stretches of neighbours."""
    numbers = np.where(numbers < 0, numbers + x.sizes[axis], numbers)
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    if len(breaks) >= MOST_STRETCHES or not len(numbers):
        return rearrange(context, x, np.take(positions(x), numbers, axis))
    stretches = np.split(numbers, breaks)
    return context.graph.concatenate([context.graph.slice(x, axis, int(s[0]), len(s)) for s in stretches], axis)


def _row_major(context: Context, x: Tensor, axes: Sequence[int], indices: Sequence[Tensor]) -> Tensor:
    """Negative positions count from the end, as in torch."""
    total: Tensor | None = None
    for axis, position in zip(axes, indices, strict=True):
        wrapped = context.elementwise(
            "where",
            context.elementwise("less", position, 0.0),
            context.elementwise("add", position, x.sizes[axis]),
            position,
        )
        total = (
            wrapped
            if total is None
            else context.elementwise("add", context.elementwise("multiply", total, x.sizes[axis]), wrapped)
        )
    assert total is not None
    return total


def take(context: Context, x: Tensor, axis: int, index: Tensor) -> Tensor:
    """torch.gather; the index has the rank of x."""
    return context.graph.add("gather", [x, index], index.sizes, axis=axis)[0]


@lowers("aten.gather.default")
def gather(context: Context, x: Tensor, axis: int, index: Tensor, sparse_grad: bool = False) -> Tensor:
    if x.rank == 0:
        return x
    axis %= x.rank
    for other in range(x.rank):
        if other != axis:
            x = context.graph.slice(x, other, 0, index.sizes[other])
    if index.is_constant:
        places = positions(x)
        return rearrange(context, x, np.take_along_axis(places, _numbers(index), axis))
    return take(context, x, axis, index)


@lowers("aten.index_select.default")
def index_select(context: Context, x: Tensor, axis: int, index: Tensor) -> Tensor:
    axis %= x.rank
    if index.is_constant:
        return rows(context, x, axis, _numbers(index).reshape(-1))
    shape = [index.elements if i == axis else 1 for i in range(x.rank)]
    sizes = [index.elements if i == axis else n for i, n in enumerate(x.sizes)]
    return take(context, x, axis, context.graph.expand(context.graph.reshape(index, shape), sizes))


@lowers("aten.embedding.default")
def embedding(context: Context, table: Tensor, tokens: Tensor, *_: object) -> Tensor:
    count, width = tokens.elements, table.sizes[1]
    rows = context.graph.expand(context.graph.reshape(tokens, (count, 1)), (count, width))
    return context.graph.reshape(take(context, table, 0, rows), (*tokens.sizes, width))


@lowers("aten.index_put.default", "aten._unsafe_index_put.default")
def index_put(
    context: Context, x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False
) -> Tensor:
    if accumulate:
        raise context.error("index_put with accumulate=True is not supported")
    given = [(axis, tensor) for axis, tensor in enumerate(indices) if tensor is not None]
    values = context.convert(values, x.precision)
    if len(given) == 1 and _dtype_of(context, given[0][0]) == torch.bool:
        if values.elements != 1:
            raise context.error("an assignment of values by a mask depends on how many there are; use torch.where")
        axis, mask = given[0]
        mask = context.graph.reshape(mask, (*(1,) * axis, *mask.sizes, *(1,) * (x.rank - axis - mask.rank)))
        return result(context, "where", mask, context.graph.reshape(values, ()), x)
    if all(tensor.is_constant for _, tensor in given):
        key = tuple(slice(None) if tensor is None else _numbers(tensor) for tensor in indices)
        return write(context, x, values, positions(x)[key])
    if len(given) == 1 and given[0][1].elements == 1:
        axis, position = given[0]
        row = (
            context.graph.reshape(values, (1,) * (x.rank - values.rank) + values.sizes)
            if values.rank <= x.rank
            else None
        )
        if row is None or any(a != b and a != 1 for a, b in zip(row.sizes, _row_sizes(x, axis), strict=True)):
            raise context.error("an assignment at a computed position needs values of the sizes of one row")
        return put_row(context, x, axis, position, row)
    raise context.error("assignments at several computed positions are not supported")


def _row_sizes(x: Tensor, axis: int) -> list[int]:
    return [1 if i == axis else n for i, n in enumerate(x.sizes)]


def put_row(context: Context, x: Tensor, axis: int, position: Tensor, row: Operand) -> Tensor:
    """x with the row at a computed position replaced; a negative position counts from the end."""
    position = context.graph.reshape(position, (1,) * x.rank)
    wrapped = context.elementwise(
        "where",
        context.elementwise("less", position, 0.0),
        context.elementwise("add", position, x.sizes[axis]),
        position,
    )
    places = context.graph.fold(_steps, x.rank, axis, x.sizes[axis], precision=computed_in(x.precision))
    return result(context, "where", context.elementwise("equal", places, wrapped), row, x)


def _steps(rank: int, axis: int, size: int) -> torch.Tensor:
    return torch.arange(size, dtype=torch.float64).reshape([size if i == axis else 1 for i in range(rank)])


@lowers("aten.index_copy.default")
def index_copy(context: Context, x: Tensor, axis: int, index: Tensor, rows: Tensor) -> Tensor:
    axis %= x.rank
    rows = context.convert(rows, x.precision)
    if index.is_constant:
        places = np.take(positions(x), _numbers(index).reshape(-1), axis)
        return write(context, x, rows, places)
    if index.elements != 1:
        raise context.error("index_copy at several computed positions is not supported")
    return put_row(context, x, axis, index, rows)


@lowers("aten.scatter.src", "aten.scatter.value")
def scatter(context: Context, x: Tensor, axis: int, index: Tensor, source: Tensor | float) -> Tensor:
    if not index.is_constant:
        raise context.error("scatter at computed positions is not supported")
    places = positions(x)
    for other in range(x.rank):
        if other != axis % x.rank:
            places = np.take(places, np.arange(index.sizes[other]), other)
    chosen = np.take_along_axis(places, _numbers(index), axis)
    if not isinstance(source, Tensor):
        return write(context, x, context.full(index.sizes, float(source), x.precision), chosen)
    for other in range(x.rank):
        source = context.graph.slice(source, other, 0, index.sizes[other])
    return write(context, x, context.convert(source, x.precision), chosen)
