"""Nodes that move elements: concatenation, remap, gather."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from tqs_fast.capture.emission.memory import Memory
from tqs_fast.capture.graph import Operation, Tensor
from tqs_fast.capture.layout import Layout, addresses, memory_order, runs


def concatenate(memory: Memory, operation: Operation) -> None:
    """Copies, but for the pieces that were computed in place."""
    (out,) = operation.outputs
    pieces = [memory.layout(x) for x in operation.tensors]
    whole = memory.layouts.get(id(out))
    if whole is None:
        largest = max(pieces, key=lambda x: prod(n for n, s in zip(x.sizes, x.strides, strict=True) if s))
        whole = memory.output(out, memory_order(largest.sizes, [largest]))
    for number, piece in enumerate(pieces):
        if piece.buffer != whole.buffer:
            memory.copy(piece, _piece(operation, number, whole))


def remap(memory: Memory, operation: Operation) -> None:
    (x,), (out,) = operation.tensors, operation.outputs
    read = memory.layout(x)
    source = operation.attributes["positions"].array
    moved = addresses(read).reshape(-1)[source.clip(min=0)]
    moved[source < 0] = -1
    memory.node("remap", [read], [memory.output(out)], {"runs": runs(moved)}, {"fill": (0.0,)})


def gather(memory: Memory, operation: Operation) -> None:
    x, index = (memory.layout(tensor) for tensor in operation.tensors)
    memory.node("gather", [x, index], [memory.output(operation.outputs[0])], {"axis": (operation.attributes["axis"],)})


def part_of_concatenation(memory: Memory, x: Tensor, order: Sequence[int]) -> Layout | None:
    """The part of a concatenation that x is, where it is nothing else."""
    operation = memory.wired.joined.get(id(x))
    if operation is None:
        return None
    (out,) = operation.outputs
    whole = memory.layouts.get(id(out)) or memory.output(out, order)
    number = next(i for i, piece in enumerate(operation.tensors) if piece is x)
    memory.layouts[id(x)] = _piece(operation, number, whole)
    return memory.layouts[id(x)]


def _piece(operation: Operation, number: int, whole: Layout) -> Layout:
    """Where a piece of a concatenation lies in the whole."""
    axis = operation.attributes["axis"]
    begin = sum(piece.sizes[axis] for piece in operation.tensors[:number])
    return Layout(whole.buffer, begin * whole.strides[axis], operation.tensors[number].sizes, whole.strides)
