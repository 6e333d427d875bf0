"""Products as nodes: linear, with a packed weight or not, convolution, matmul, attention."""

from __future__ import annotations

from tqs_fast.capture.emission.memory import Memory
from tqs_fast.capture.graph import Operand, Operation, Tensor
from tqs_fast.capture.layout import Layout, coalesce, contiguous


def linear(memory: Memory, operation: Operation) -> None:
    _, weight, bias = operation.inputs
    assert isinstance(weight, Tensor)
    read, written = _rows(memory, operation)
    memory.node("linear", [read, memory.constants.layout(weight, whole=True), _bias(memory, bias)], [written])


def packed_linear(memory: Memory, operation: Operation) -> None:
    _, bias = operation.inputs
    read, written = _rows(memory, operation)
    given = operation.attributes
    weight = memory.constants.packed(given["weight"])
    ints = {"weight": (weight,), "int8": (int(given["int8"]),)}
    memory.node("packed_linear", [read, _bias(memory, bias)], [written], ints)


def _rows(memory: Memory, operation: Operation) -> tuple[Layout, Layout]:
    """The first input and the output, which differ in the last axis, with few leading axes."""
    x, (out,) = operation.tensors[0], operation.outputs
    read, written = memory.layout(x), memory.output(out)
    rows, (steps,) = coalesce(x.sizes[:-1], [read.strides[:-1]])
    made = (*rows, out.sizes[-1])
    return (
        Layout(read.buffer, read.offset, (*rows, x.sizes[-1]), (*steps, read.strides[-1])),
        Layout(written.buffer, 0, made, contiguous(made)),
    )


def _bias(memory: Memory, bias: Operand | None) -> Layout | None:
    return memory.constants.layout(bias, whole=True) if isinstance(bias, Tensor) else None


def convolution(memory: Memory, operation: Operation) -> None:
    x, weight, bias = operation.inputs
    assert isinstance(x, Tensor)
    assert isinstance(weight, Tensor)
    (out,) = operation.outputs
    read = memory.layout(x)
    written = memory.output(out, (0, *range(2, out.rank), 1))
    given = operation.attributes
    memory.node(
        "convolution",
        [
            read,
            memory.constants.layout(weight, whole=True),
            _bias(memory, bias),
        ],
        [written],
        {name: given[name] for name in ("stride", "padding", "dilation")} | {"groups": (given["groups"],)},
    )


def matmul(memory: Memory, operation: Operation) -> None:
    a, b = (memory.layout(x) for x in operation.tensors)
    out = memory.output(operation.outputs[0])
    leading, strides = coalesce(out.sizes[:-2], [a.strides[:-2], b.strides[:-2]])
    read = [
        Layout(x.buffer, x.offset, (*leading, *x.sizes[-2:]), (*step, *x.strides[-2:]))
        for x, step in zip((a, b), strides, strict=True)
    ]
    made = (*leading, *out.sizes[-2:])
    memory.node("matmul", read, [Layout(out.buffer, 0, made, contiguous(made))])


def attention(memory: Memory, operation: Operation) -> None:
    q, k, v, mask = (memory.layout(x) if isinstance(x, Tensor) else None for x in operation.inputs)
    (tensor,) = operation.outputs
    rank = tensor.rank
    # heads of a position lie together, so that joining them moves nothing
    order = (0, rank - 2, *range(1, rank - 2), rank - 1) if rank > 3 else range(rank)
    given = operation.attributes
    memory.node(
        "attention",
        [q, k, v, mask],
        [memory.output(tensor, order)],
        {"causal": (int(given["causal"]),), "causal_offset": (given["causal_offset"],)},
        {"scale": (given["scale"],)},
    )
