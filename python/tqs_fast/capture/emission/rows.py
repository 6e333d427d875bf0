"""Nodes along axes: reductions, softmax, normalisation, the largest of a row, running sums and extremes."""

from __future__ import annotations

from collections.abc import Sequence

from tqs_fast.capture.emission.memory import Memory
from tqs_fast.capture.graph import Operation
from tqs_fast.capture.layout import Layout, coalesce, contiguous
from tqs_fast.capture.opcodes import REDUCTIONS


def reduce(memory: Memory, operation: Operation) -> None:
    (x,), (out,) = operation.tensors, operation.outputs
    read, written = memory.layout(x), memory.output(out)
    axes = set(operation.attributes["axes"])
    sizes: list[int] = []
    strides: list[int] = []
    kept: list[int] = []
    chosen: list[int] = []
    for is_reduced, members in _stretches([axis in axes for axis in range(x.rank)]):
        inner, (step,) = coalesce(tuple(x.sizes[a] for a in members), [tuple(read.strides[a] for a in members)])
        if inner == (1,) and len(members) < x.rank:
            continue
        if is_reduced:
            chosen += range(len(sizes), len(sizes) + len(inner))
        sizes += inner
        strides += step
        kept += [1 if is_reduced else size for size in inner]
    if not sizes:
        sizes, strides, kept = [1], [0], [1]
    memory.node(
        "reduce",
        [Layout(read.buffer, read.offset, tuple(sizes), tuple(strides))],
        [Layout(written.buffer, 0, tuple(kept), contiguous(kept))],
        {"kind": (REDUCTIONS.index(operation.attributes["reduction"]),), "axes": tuple(chosen)},
    )


def _rows(memory: Memory, operation: Operation, last: int) -> tuple[Layout, list[Layout], int]:
    """The input and outputs with few leading axes, and few of the `last` last ones: how many those are."""
    (x,) = operation.tensors
    read = memory.layout(x)
    split = x.rank - last
    outputs = [memory.output(out) for out in operation.outputs]
    leading, (step,) = coalesce(x.sizes[:split], [read.strides[:split]])
    trailing, (inner,) = coalesce(x.sizes[split:], [read.strides[split:]])
    written = [
        Layout(out.buffer, 0, (*leading, *own), contiguous((*leading, *own)))
        for out in outputs
        for own in [trailing if out.sizes[split:] == x.sizes[split:] else out.sizes[split:]]
    ]
    return Layout(read.buffer, read.offset, (*leading, *trailing), (*step, *inner)), written, len(trailing)


def softmax(memory: Memory, operation: Operation) -> None:
    read, written, _ = _rows(memory, operation, 1)
    memory.node("softmax", [read], written, {"logarithm": (int(operation.attributes["logarithm"]),)})


def normalize(memory: Memory, operation: Operation) -> None:
    given = operation.attributes
    read, written, axes = _rows(memory, operation, given["axes"])
    ints = {"axes": (axes,), "center": (int(given["center"]),)}
    memory.node("normalize", [read], written, ints, {"epsilon": (given["epsilon"],)})


def top_k(memory: Memory, operation: Operation) -> None:
    given = operation.attributes
    read, written, _ = _rows(memory, operation, 1)
    memory.node("top_k", [read], written, {"count": (given["count"],), "largest": (int(given["largest"]),)})


def _along(memory: Memory, operation: Operation) -> tuple[Layout, list[Layout], int]:
    """The input and outputs of equal sizes with few axes before and after one of them, and where that is then."""
    (x,) = operation.tensors
    axis = operation.attributes["axis"]
    read = memory.layout(x)
    before, (outer,) = coalesce(x.sizes[:axis], [read.strides[:axis]])
    after, (inner,) = coalesce(x.sizes[axis + 1 :], [read.strides[axis + 1 :]])
    sizes = (*before, x.sizes[axis], *after)
    written = [Layout(memory.output(out).buffer, 0, sizes, contiguous(sizes)) for out in operation.outputs]
    return Layout(read.buffer, read.offset, sizes, (*outer, read.strides[axis], *inner)), written, len(before)


def scan(memory: Memory, operation: Operation) -> None:
    read, written, axis = _along(memory, operation)
    memory.node("scan", [read], written, {"axis": (axis,), "product": (int(operation.attributes["product"]),)})


def running_extreme(memory: Memory, operation: Operation) -> None:
    read, written, axis = _along(memory, operation)
    ints = {"axis": (axis,), "largest": (int(operation.attributes["largest"]),)}
    memory.node("running_extreme", [read], written, ints)


def _stretches(flags: Sequence[bool]) -> list[tuple[bool, list[int]]]:
    """Adjacent positions with equal flags."""
    result: list[tuple[bool, list[int]]] = []
    for position, flag in enumerate(flags):
        if result and result[-1][0] == flag:
            result[-1][1].append(position)
        else:
            result.append((flag, [position]))
    return result
