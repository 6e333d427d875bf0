"""Strides: what a view of axes is in memory, and how few axes it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Where a tensor lies: element i is at `offset + sum(i * strides)` of buffer `buffer`."""

    buffer: int
    offset: int
    sizes: Sizes
    strides: Sizes


def contiguous(sizes: Sequence[int], order: Sequence[int] | None = None) -> Sizes:
    """Strides that fill memory with the axes in `order`, outermost first (row-major by default)."""
    strides, step = [0] * len(sizes), 1
    for axis in reversed(range(len(sizes)) if order is None else order):
        strides[axis] = step
        step *= sizes[axis]
    return tuple(strides)


def view(kind: str, layout: Layout, sizes: Sizes, attributes: Any) -> Layout | None:
    """The layout of a view operation's output; None where a reshape needs a copy."""
    strides = list(layout.strides)
    offset = layout.offset
    if kind == "permute":
        strides = [strides[axis] for axis in attributes["order"]]
    elif kind == "expand":
        strides = [
            0 if have != want else stride for have, want, stride in zip(layout.sizes, sizes, strides, strict=True)
        ]
    elif kind == "slice":
        offset += attributes["start"] * strides[attributes["axis"]]
        strides[attributes["axis"]] *= attributes["step"]
    elif kind == "windows":
        stride = strides[attributes["axis"]]
        strides[attributes["axis"]] = stride * attributes["step"]
        strides.append(stride)
    elif kind == "diagonal":
        rows, columns, shift = strides[attributes["axis1"]], strides[attributes["axis2"]], attributes["offset"]
        offset += max(shift, 0) * columns + max(-shift, 0) * rows
        kept = [s for axis, s in enumerate(strides) if axis not in (attributes["axis1"], attributes["axis2"])]
        strides = [*kept, rows + columns]
    else:
        found = reshape_strides(layout.sizes, layout.strides, sizes)
        if found is None:
            return None
        strides = list(found)
    return Layout(layout.buffer, offset, sizes, tuple(strides))


def reshape_strides(before: Sizes, strides: Sizes, after: Sizes) -> Sizes | None:
    """Strides of the same elements in the same order with other sizes; None if there are none."""
    runs: list[list[int]] = []  # [elements, stride] of stretches with one stride, outermost first
    for size, stride in zip(before, strides, strict=True):
        if size == 1:
            continue
        if runs and runs[-1][1] == size * stride:
            runs[-1] = [runs[-1][0] * size, stride]
        else:
            runs.append([size, stride])
    result, axis = [0] * len(after), 0
    for elements, stride in runs:
        first, left = axis, elements
        while axis < len(after) and left > 1:
            if left % after[axis]:
                return None
            left //= after[axis]
            axis += 1
        if left > 1:
            return None
        step = stride
        for inner in reversed(range(first, axis)):
            result[inner] = step
            step *= after[inner]
    return tuple(result)


def coalesce(sizes: Sizes, strides: Sequence[Sizes]) -> tuple[Sizes, list[Sizes]]:
    """Fewest axes over which all of `strides` address the same elements in the same order; at least one."""
    kept: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for axis, size in enumerate(sizes):
        if size == 1:
            continue
        if kept and all(step[-1] == own[axis] * size for step, own in zip(steps, strides, strict=True)):
            kept[-1] *= size
            for step, own in zip(steps, strides, strict=True):
                step[-1] = own[axis]
        else:
            kept.append(size)
            for step, own in zip(steps, strides, strict=True):
                step.append(own[axis])
    if not kept:
        return (1,), [(0,) for _ in strides]
    return tuple(kept), [tuple(step) for step in steps]


def memory_order(sizes: Sizes, layouts: Sequence[Layout]) -> tuple[int, ...]:
    """The order of axes in which the largest of `layouts` (of equal sizes) lies in memory."""
    best = max(
        layouts,
        key=lambda layout: prod(n for n, s in zip(sizes, layout.strides, strict=True) if s),
        default=None,
    )
    rank = len(sizes)
    if best is None:
        return tuple(range(rank))
    # broadcast axes and those of size 1 stay where they are, before the next axis that moves
    moving = [axis for axis in range(rank) if sizes[axis] > 1 and best.strides[axis] > 0]
    turned = iter(sorted(moving, key=lambda axis: -best.strides[axis]))
    return tuple(next(turned) if axis in moving else axis for axis in range(rank))


def addresses(layout: Layout) -> npt.NDArray[np.int64]:
    """Position of every element, relative to the first."""
    total = np.zeros((), np.int64)
    for axis, (size, stride) in enumerate(zip(layout.sizes, layout.strides, strict=True)):
        shape = [1] * len(layout.sizes)
        shape[axis] = size
        total = total + np.arange(size, dtype=np.int64).reshape(shape) * stride
    return np.broadcast_to(total, layout.sizes)


def runs(source: npt.NDArray[np.int64]) -> tuple[int, ...]:
    """Flat (to, from, count, step) that copy from `source[i]` to i; -1 writes the fill."""
    flat = source.reshape(-1)
    steps = np.diff(flat)
    # where a stretch of equal steps, or of fill, ends
    turns = np.flatnonzero(steps[1:] != steps[:-1]) + 1
    filled = np.flatnonzero(flat >= 0)
    result: list[int] = []
    begin = 0
    while begin < len(flat):
        step = int(steps[begin]) if begin < len(steps) else 0
        if flat[begin] < 0:
            later = np.searchsorted(filled, begin)
            end, step = (int(filled[later]) if later < len(filled) else len(flat)), 0
        elif begin == len(steps) or step < 0:
            end, step = begin + 1, 0
        else:
            later = np.searchsorted(turns, begin, side="right")
            end = int(turns[later]) + 1 if later < len(turns) else len(flat)
        result += [begin, int(flat[begin]), end - begin, step]
        begin = end
    return tuple(result)
