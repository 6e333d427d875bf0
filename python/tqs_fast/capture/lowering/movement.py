"""Ops that move elements: joining, padding, turning, repeating, writing into a part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from tqs_fast.capture.graph import Tensor
from tqs_fast.capture.lowering.registry import Context, lowers
from tqs_fast.capture.positions import Positions
from tqs_fast.capture.program import promoted


@lowers("aten.cat.default", "aten.concat.default")
def concatenate(context: Context, pieces: Sequence[Tensor], axis: int = 0) -> Tensor:
    # torch allows empty pieces of rank 1 anywhere
    rank = len(context.sizes)
    return join(context, [piece for piece in pieces if piece.rank == rank and piece.elements], axis)


@lowers("aten.stack.default")
def stack(context: Context, pieces: Sequence[Tensor], axis: int = 0) -> Tensor:
    axis %= len(context.sizes)
    rows = [context.graph.reshape(x, (*x.sizes[:axis], 1, *x.sizes[axis:])) for x in pieces]
    return join(context, rows, axis)


def join(context: Context, pieces: Sequence[Tensor], axis: int) -> Tensor:
    precision = promoted(*(x.precision for x in pieces))
    return context.graph.concatenate([context.convert(x, precision) for x in pieces], axis)


@lowers("aten.constant_pad_nd.default")
def pad(context: Context, x: Tensor, amounts: Sequence[int], value: float = 0.0) -> Tensor:
    """Negative amounts cut."""
    for i in range(len(amounts) // 2):
        axis = x.rank - 1 - i
        before, after = amounts[2 * i], amounts[2 * i + 1]
        cut_before, cut_after = max(-before, 0), max(-after, 0)
        x = context.graph.slice(x, axis, cut_before, x.sizes[axis] - cut_before - cut_after)
        edges = [
            [context.full([n if a != axis else amount for a, n in enumerate(x.sizes)], float(value), x.precision)]
            if amount > 0
            else []
            for amount in (before, after)
        ]
        x = context.graph.concatenate([*edges[0], x, *edges[1]], axis)
    return x


@lowers("aten.flip.default")
def flip(context: Context, x: Tensor, axes: Sequence[int]) -> Tensor:
    return rearrange(context, x, np.flip(positions(x), tuple(axes)))


@lowers("aten.roll.default")
def roll(context: Context, x: Tensor, shifts: Sequence[int], axes: Sequence[int] = ()) -> Tensor:
    if not axes:
        flat = context.graph.reshape(x, (x.elements,))
        return context.graph.reshape(_roll(context, flat, shifts[0], 0), x.sizes)
    for shift, axis in zip(shifts, axes, strict=True):
        x = _roll(context, x, shift, axis % x.rank)
    return x


def _roll(context: Context, x: Tensor, shift: int, axis: int) -> Tensor:
    size = x.sizes[axis]
    start = -shift % size if size else 0
    first, second = (context.graph.slice(x, axis, a, n) for a, n in ((start, size - start), (0, start)))
    return context.graph.concatenate([first, second], axis)


@lowers("aten.slice_scatter.default")
def slice_scatter(
    context: Context,
    x: Tensor,
    part: Tensor,
    axis: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Tensor:
    axis %= x.rank
    size = x.sizes[axis]
    first = 0 if start is None else min(max(start + size if start < 0 else start, 0), size)
    part = context.convert(part, x.precision)
    if step == 1:
        last = first + part.sizes[axis]
        before = context.graph.slice(x, axis, 0, first)
        after = context.graph.slice(x, axis, last, size - last)
        return join(context, [before, part, after], axis)
    index = [slice(None)] * x.rank
    index[axis] = slice(first, first + (part.sizes[axis] - 1) * step + 1, step)
    return write(context, x, part, positions(x)[tuple(index)])


@lowers("aten.select_scatter.default")
def select_scatter(context: Context, x: Tensor, part: Tensor, axis: int, position: int) -> Tensor:
    axis %= x.rank
    row = context.graph.reshape(context.convert(part, x.precision), (*part.sizes[:axis], 1, *part.sizes[axis:]))
    position %= x.sizes[axis]
    before = context.graph.slice(x, axis, 0, position)
    after = context.graph.slice(x, axis, position + 1, x.sizes[axis] - position - 1)
    return join(context, [before, row, after], axis)


def positions(x: Tensor) -> npt.NDArray[np.int64]:
    """Row-major positions of the elements of x, of its sizes."""
    return np.arange(x.elements, dtype=np.int64).reshape(x.sizes)


def rearrange(context: Context, x: Tensor, source: npt.NDArray[np.int64]) -> Tensor:
    """Element i of the result is the element of x at row-major position source[i]; -1 gives 0."""
    positions_of = np.array(source, np.int64, order="C")  # a copy: an axis of size 1 may keep a negative stride
    if x.is_constant:
        return context.graph.fold(_take, x, Positions(positions_of), precision=x.precision)
    return context.graph.add("remap", [x], positions_of.shape, positions=Positions(positions_of))[0]


def write(context: Context, x: Tensor, part: Tensor, places: npt.NDArray[np.int64]) -> Tensor:
    """x with the elements at row-major positions `places` replaced by those of `part`, whose sizes broadcast."""
    part = context.graph.expand(part, places.shape)
    flat = [context.graph.reshape(tensor, (tensor.elements,)) for tensor in (x, part)]
    source = np.arange(x.elements, dtype=np.int64)
    source[places.reshape(-1)] = x.elements + np.arange(places.size, dtype=np.int64)
    both = join(context, flat, 0)
    return context.graph.reshape(rearrange(context, both, source), x.sizes)


def _take(x: torch.Tensor, source: Positions) -> torch.Tensor:
    flat = x.reshape(-1)
    taken = flat[torch.from_numpy(source.array.clip(min=0))]
    return torch.where(torch.from_numpy(source.array) < 0, torch.zeros_like(taken), taken)
